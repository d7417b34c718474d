"""Roofline time of each kernel on a GPU: the maximum of the times for its arithmetic and for its compulsory bytes.

    python -m benchmarks.roofline                     # a table for the benchmarks' problems

Compulsory bytes: every argument is read and every result is written once, from and to the GPU's memory; caching between
kernels is ignored. A multiplication or addition counts as one operation (a fused one as two), and so does a call of exp, log
or the normal distribution. Corners outside x, which cost nothing, are counted too: 3 % in the benchmarks.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ops.op_cases import DeformConv2dCase, LdcnCase, LikelihoodCase

ROOT = Path(__file__).resolve().parents[1]
FLOAT = 4  # bytes; offset and mask are of float32 whatever x is


@dataclass(frozen=True)
class Gpu:
    """Peak rates, per second. tf32: of products on tensor cores; half: of float16 or bfloat16 with sums in float32."""

    name: str
    bytes: float
    flops: float  # float32, outside the tensor cores
    tf32: float
    half: float

    @property
    def float32_products_on_tensor_cores(self) -> bool:
        """Three TF32 products give one product of float32's accuracy."""
        return self.tf32 / 3 > self.flops


# By torch.cuda.get_device_name. Without sparsity, from NVIDIA's Ampere GA102 whitepaper (2021, RTX 3090), A100 80GB SXM data
# sheet (2021) and H100 SXM data sheet and Hopper whitepaper (2023).
GPUS = {
    "NVIDIA GeForce RTX 3090": Gpu("RTX 3090", bytes=936e9, flops=35.6e12, tf32=35.6e12, half=71e12),
    "NVIDIA A100-SXM4-80GB": Gpu("A100", bytes=2039e9, flops=19.5e12, tf32=156e12, half=312e12),
    "NVIDIA H100 80GB HBM3": Gpu("H100", bytes=3350e9, flops=66.9e12, tf32=494.7e12, half=989.4e12),
}


@dataclass(frozen=True)
class Work:
    """Minimum work of one call. products: operations of matrix products, on tensor cores if these are faster."""

    name: str
    bytes: int
    flops: int
    products: int = 0
    half: bool = False  # the products' type

    def times(self, gpu: Gpu) -> dict[str, float]:
        """Minimum seconds for each unit of the GPU."""
        if self.half or gpu.float32_products_on_tensor_cores:
            rate = gpu.half if self.half else gpu.tf32 / 3
            return {"memory": self.bytes / gpu.bytes, "arithmetic": self.flops / gpu.flops, "products": self.products / rate}
        return {"memory": self.bytes / gpu.bytes, "arithmetic": (self.flops + self.products) / gpu.flops}

    def roofline_seconds(self, gpu: Gpu) -> float:
        return max(self.times(gpu).values())

    def limit(self, gpu: Gpu) -> str:
        """The unit with the longest time."""
        times = self.times(gpu)
        return max(times, key=times.get)


# Operations for a tap of a group at a position: its position and two fractions; its four weights, including the mask; from
# the sums over channels to the gradients of dy, dx and mask.
PLACE, WEIGHTS, SAMPLE_GRADIENTS = 4, 6, 14
# For each channel: a product added for each corner, or four products and their sum.
FOUR_ADDED, FOUR_SUMMED = 8, 7


def _sizes(case: "LdcnCase") -> tuple[int, int, int]:
    """Numbers in x, positions, and taps of all groups and positions."""
    ho, wo = case.out_size
    positions = case.batch * ho * wo
    return case.batch * case.channels * case.height * case.width, positions, positions * case.groups * case.taps


def _sample_bytes(case: "LdcnCase") -> int:
    """Of offset and mask."""
    return _sizes(case)[2] * (3 if case.masked else 2) * FLOAT


def ldcn(case: "LdcnCase", dtype: torch.dtype = torch.float32) -> tuple[Work, Work]:
    """Forward and backward (gradients of x, offset and mask), x of `dtype`."""
    x, positions, taps = _sizes(case)
    values = (x + positions * case.channels) * dtype.itemsize  # x and y, or their gradients
    samples, depth = _sample_bytes(case), case.channels // case.groups
    forward = Work("ldcn forward", values + samples, taps * (PLACE + WEIGHTS + depth * FOUR_ADDED))
    flops = taps * (PLACE + WEIGHTS + SAMPLE_GRADIENTS + depth * 2 * FOUR_ADDED)
    return forward, Work("ldcn backward", values + x * dtype.itemsize + 2 * samples, flops)


def deform_conv2d(case: "DeformConv2dCase", dtype: torch.dtype = torch.float32) -> tuple[Work, Work]:
    """Forward and backward (gradients of all arguments), input, weight and bias of `dtype`."""
    x, positions, taps = _sizes(case)
    y, depth, half = positions * case.out_channels, case.channels // case.groups, dtype.itemsize == 2
    of_output = case.channels // case.weight_groups * case.taps  # weights of one output channel
    weight, bias = case.out_channels * of_output * dtype.itemsize, case.out_channels * case.biased * dtype.itemsize
    values, samples = (x + y) * dtype.itemsize, _sample_bytes(case)
    products = 2 * y * of_output
    flops = taps * (PLACE + WEIGHTS + depth * FOUR_SUMMED) + y * case.biased
    forward = Work("deform_conv2d forward", values + samples + weight + bias, flops, products, half)
    # The samples once more, for weight's gradient.
    flops += taps * (SAMPLE_GRADIENTS + depth * 2 * FOUR_ADDED)
    moved = values + x * dtype.itemsize + 2 * (samples + weight) + bias
    return forward, Work("deform_conv2d backward", moved, flops, 2 * products, half)


def gaussian_likelihood(case: "LikelihoodCase") -> tuple[Work, Work]:
    """Forward (y_hat and bits from y, scale and mean; the noise is drawn) and backward (gradients of all three), float32."""
    count = torch.Size(case.shape).numel()
    inputs = 3 if case.has_mean else 2
    forward = Work("gaussian_likelihood forward", count * (inputs + 2) * FLOAT, count * (10 + case.has_mean))
    backward = Work("gaussian_likelihood backward", count * (2 * inputs + 2) * FLOAT, count * (25 + case.has_mean))
    return forward, backward


def gaussian_symbols(case: "LikelihoodCase") -> Work:
    """int32 symbols and uint8 indexes from float32 y, scale and mean: a rounding and a comparison."""
    count, inputs = torch.Size(case.shape).numel(), 3 if case.has_mean else 2
    return Work("gaussian_symbols", count * (inputs * FLOAT + 4 + 1), count * (2 + case.has_mean))


def gpu_of(device: torch.device) -> Gpu | None:
    """The GPU of this machine, if it is one of those above."""
    return GPUS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def benchmarked() -> list[tuple[str, Work]]:
    """The benchmarks' problems, by name."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]  # as pytest has it
    from problem_sizes import DEFORM_CONV2D_PROBLEMS, LDCN_PROBLEMS, LIKELIHOOD_PROBLEMS

    found = []
    for dtype in (torch.float32, torch.float16):
        for case in LDCN_PROBLEMS:
            found += [(f"{case}, {str(dtype)[6:]}", work) for work in ldcn(case, dtype)]
        for case in DEFORM_CONV2D_PROBLEMS:
            found += [(f"{case}, {str(dtype)[6:]}", work) for work in deform_conv2d(case, dtype)]
    for case in LIKELIHOOD_PROBLEMS:
        found += [(f"{case}, float32", work) for work in (*gaussian_likelihood(case), gaussian_symbols(case))]
    return found


def main() -> None:
    names = [gpu.name for gpu in GPUS.values()]
    print(f"| kernel | problem | Gflop | of them products | MB | {' | '.join(f'{name}, µs' for name in names)} |")
    print("| --- " * (5 + len(names)) + "|")
    for problem, work in benchmarked():
        times = (f"{1e6 * work.roofline_seconds(gpu):.1f} ({work.limit(gpu)})" for gpu in GPUS.values())
        total = work.flops + work.products
        share = f"{work.products / total:.0%}"
        print(f"| {work.name} | {problem} | {total / 1e9:.3g} | {share} | {work.bytes / 1e6:.3g} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
