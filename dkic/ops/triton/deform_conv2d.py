"""dkic::deform_conv2d and its backward as Triton kernels: samples, their blending and the matrix products in one launch.

`forward` and `backward` have the schemas of dkic/ops/schemas.py. In half precision samples are rounded to it once, to be operands
of the tensor cores, which sum in float32. float32 is multiplied as float32; where torch allows TF32 for its matrix products, in
three passes of TF32 on the tensor cores ("tf32x3"), which lose no more than a few units of float32's last digit.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from dkic.ops.memory_format import gradient_like
from dkic.ops.triton import deform_conv2d_kernels as kernels
from dkic.ops.triton.image_sums import ImageSums, finite, fixed_powers, largest
from dkic.ops.triton.layouts import as_laid_out, channels_adjacent, empty_nhwc, pixel_strides
from dkic.ops.triton.samples import Samples, samples_of

# The gradient of weight is cut into parts of the pixels by shape alone: so many programs are wanted, of so many pixels at least.
PROGRAMS, PART = 1024, 512


@dataclass(frozen=True)
class Tiles:
    """A program's pixels, outputs and channels, its warps, of how many rounds loads are in flight, and a thread's registers."""

    pixels: int
    outputs: int
    channels: int
    warps: int
    stages: int = 2
    registers: int | None = None  # at most; the compiler's own choice spills a few

    def fit(self, outputs: int, run: int) -> "Tiles":
        """No wider than a group's outputs and a run's channels, but 16 at least, as the tensor cores take them.

        Channels that don't come in vectors are not loaded ahead: each number would take its own address and copy.
        """
        wide, deep = (max(triton.next_power_of_2(size), 16) for size in (outputs, run))
        stages = self.stages if run % 4 == 0 else 1
        return replace(self, outputs=min(self.outputs, wide), channels=min(self.channels, deep), stages=stages)

    def options(self) -> dict:
        blocks = {"BLOCK_P": self.pixels, "BLOCK_O": self.outputs, "BLOCK_C": self.channels}
        launch = {"num_warps": self.warps, "num_stages": self.stages}
        return {**blocks, **launch, **({"maxnreg": self.registers} if self.registers else {})}


# By kernel and way of multiplying: the fastest of some 60 each on an H100, in the codec's shape (192 to 192 channels, 3x3,
# 8 groups, 128x128), of those that spill nothing on 8.6 and 9.0, which tests/ops/test_deform_conv2d_compile.py reads. Few warps
# with much work each won: 64 pixels by all 192 outputs took 0.16 ms in half precision, and with 8 warps by half of them 0.21 ms.
TILES = {
    ("forward", "half"): Tiles(64, 256, 32, 4, 1),
    ("forward", "tf32x3"): Tiles(64, 64, 16, 4, 1),
    ("forward", "ieee"): Tiles(64, 128, 16, 4, 1),
    ("forward", "double"): Tiles(32, 32, 16, 8, 1),
    ("samples", "half"): Tiles(64, 64, 32, 4),
    ("samples", "tf32x3"): Tiles(64, 32, 32, 4),
    ("samples", "ieee"): Tiles(32, 32, 32, 4),
    ("samples", "double"): Tiles(32, 16, 16, 8, 1, registers=168),
    ("weight", "half"): Tiles(32, 256, 32, 4),
    ("weight", "tf32x3"): Tiles(32, 128, 32, 4, 1),
    ("weight", "ieee"): Tiles(32, 64, 32, 4, 1),
    ("weight", "double"): Tiles(16, 32, 16, 8, 1),
}
# Where a thread needs more registers than that: to sum in integers, and for channels that don't come in vectors. Not timed.
INTEGER_TILES = {
    ("samples", "half"): Tiles(32, 64, 32, 8),
    ("samples", "tf32x3"): Tiles(16, 16, 16, 4, registers=168),
    ("samples", "ieee"): Tiles(32, 16, 16, 8),
}
ODD_TILES = {
    ("forward", "half"): Tiles(64, 128, 32, 8),
    ("samples", "half"): Tiles(32, 64, 32, 8),
    ("weight", "half"): Tiles(32, 128, 32, 8),
}


@dataclass(frozen=True)
class Problem(Samples):
    """The arguments of a launch that all kernels share.

    weight: `[O, kernel height, kernel width, depth]`, without gaps. way: of multiplying.
    """

    weight: Tensor
    way: str

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def depth(self) -> int:
        """Channels of a weight group."""
        return self.weight.shape[3]

    @property
    def group_outputs(self) -> int:
        """Outputs of a weight group."""
        return self.outputs // (self.x.shape[1] // self.depth)

    @property
    def run(self) -> int:
        return math.gcd(self.depth, self.group_depth)

    def tiles(self, kernel: str, integers: bool = False) -> Tiles:
        """integers: the gradient of input is summed in them."""
        tiles = TILES[kernel, self.way]
        for applies, smaller in ((integers, INTEGER_TILES), (self.run % 4, ODD_TILES)):
            if applies:
                tiles = smaller.get((kernel, self.way), tiles)
        return tiles.fit(self.group_outputs, self.run)

    def sizes(self, *others: Tensor) -> dict[str, Any]:
        return super().sizes(self.weight, *others) | {
            "RUN": self.run,
            "GROUP_DEPTH": self.group_depth,
            "PRECISION": "tf32x3" if self.way == "tf32x3" else "ieee",
        }


def way_to_multiply(dtype: torch.dtype) -> str:
    """(torch refuses to tell allow_tf32 once fp32_precision was set; the latter it always tells.)"""
    if dtype != torch.float32:
        return "double" if dtype == torch.float64 else "half"
    return "tf32x3" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def problem(input, offset, weight, mask, stride, padding, dilation) -> Problem:
    """RuntimeError as `samples_of`, and where weight does not fit."""
    if weight.dim() != 4 or (weight.dtype, weight.device) != (input.dtype, input.device) or 0 in weight.shape[1:]:
        raise RuntimeError("deform_conv2d: weight must have 4 dimensions, and the dtype and device of input")
    if input.dtype == torch.float64:  # since Triton 3.6 multiplies no float64 that halves went into
        offset, mask = offset.double(), None if mask is None else mask.double()
    samples = samples_of("deform_conv2d", input, offset, mask, weight.shape[2:], stride, padding, dilation)
    p = Problem(**vars(samples), weight=weight.permute(0, 2, 3, 1).contiguous(), way=way_to_multiply(input.dtype))
    if input.shape[1] % p.depth or p.outputs % (input.shape[1] // p.depth):
        raise RuntimeError("deform_conv2d: the shape of weight does not fit input")
    return p


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """dkic::deform_conv2d. RuntimeError: arguments that the op's Python checks would have refused."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    if bias is not None and (bias.shape != (p.outputs,) or bias.device != input.device):
        raise RuntimeError("deform_conv2d: bias must have one number for each output channel")
    y = empty_nhwc(input, (input.shape[0], p.outputs, *p.out_size))
    if not p.pixels or not p.outputs:
        return as_laid_out(y, input)
    tiles = p.tiles("forward")
    programs = triton.cdiv(p.pixels, tiles.pixels) * (p.outputs // p.group_outputs) * triton.cdiv(p.group_outputs, tiles.outputs)
    with torch.cuda.device_of(input):
        kernels.forward[(programs,)](
            p.x,
            p.offset,
            p.weight,
            None if bias is None else bias.contiguous(),
            p.mask,
            y,
            **p.sizes(y),
            out_channels=p.outputs,
            group_outputs=p.group_outputs,
            runs=p.depth // p.run,
            **tiles.options(),
        )
    return as_laid_out(y, input)


def backward(
    grad_y: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    need_input: bool,
    need_offset: bool,
    need_weight: bool,
    need_bias: bool,
    need_mask: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dkic::deform_conv2d_backward. RuntimeError: arguments that the op itself would not pass."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    if grad_y.shape != (input.shape[0], p.outputs, *p.out_size) or (grad_y.dtype, grad_y.device) != (input.dtype, input.device):
        raise RuntimeError("deform_conv2d_backward: grad_y must have the shape, dtype and device of deform_conv2d's result")
    need_mask = need_mask and mask is not None
    if not p.outputs:
        wanted = (input, need_input), (offset, need_offset), (mask, need_mask)
        grad_input, grad_offset, grad_mask = (gradient_like(offset if t is None else t, need).zero_() for t, need in wanted)
        return grad_input, grad_offset, weight.new_empty(weight.shape if need_weight else 0), weight.new_empty(0), grad_mask
    grad_y = channels_adjacent(grad_y)
    grad_offset = empty_nhwc(offset, offset.shape if need_offset else None)
    grad_mask = empty_nhwc(offset if mask is None else mask, mask.shape if need_mask else None)
    grad_input = input.new_empty(0)
    with torch.cuda.device_of(input):
        if need_input or need_offset or need_mask:
            grad_input = backward_samples(p, grad_y, grad_offset, grad_mask, need_input, deterministic)
        grad_weight = backward_weight(p, grad_y) if need_weight else weight.new_empty(0)
    grad_bias = grad_y.sum((0, 2, 3), dtype=p.sum_dtype).to(p.x.dtype) if need_bias else weight.new_empty(0)
    if need_input:
        grad_input = as_laid_out(grad_input, input)
    if need_offset:
        grad_offset = as_laid_out(grad_offset, offset)
    if need_mask:
        grad_mask = as_laid_out(grad_mask, mask)
    return grad_input, grad_offset, grad_weight, grad_bias, grad_mask


def backward_samples(p: Problem, grad_y: Tensor, grad_offset: Tensor, grad_mask: Tensor, need_input: bool, fixed: bool) -> Tensor:
    """Fills grad_offset and grad_mask where they are not empty; returns the gradient of input."""
    sums = None
    if need_input:
        sums = ImageSums(p.x, p.sum_dtype, powers_of(p, grad_y) if fixed and p.pixels else None)
    if p.pixels:
        tiles = p.tiles("samples", fixed and need_input)
        added = p.x if sums is None else sums.sums
        kernels.backward_samples[(triton.cdiv(p.pixels, tiles.pixels) * p.groups * p.taps,)](
            grad_y,
            p.x,
            p.offset,
            p.weight,
            p.mask,
            *((None,) * 4 if sums is None else sums.arguments),
            grad_offset if grad_offset.numel() else None,
            grad_mask if grad_mask.numel() else None,
            **p.sizes(grad_y, added),
            grad_stride=pixel_strides(grad_y),
            sum_stride=pixel_strides(added),
            groups=p.groups,
            group_outputs=p.group_outputs,
            depth=p.depth,
            **tiles.options(),
        )
    return p.x.new_empty(0) if sums is None else sums.total()


def backward_weight(p: Problem, grad_y: Tensor) -> Tensor:
    """The parts' sums, each in one program, and then theirs, which torch makes in one order: the same every time."""
    tiles = p.tiles("weight")
    programs = p.taps * triton.cdiv(p.group_outputs, tiles.outputs) * triton.cdiv(p.run, tiles.channels) * (p.x.shape[1] // p.run)
    parts = max(min(triton.cdiv(PROGRAMS, programs), triton.cdiv(p.pixels, PART)), 1)
    of_a_part = triton.cdiv(triton.cdiv(p.pixels, tiles.pixels), parts)
    partial = p.x.new_empty((parts, *p.weight.shape), dtype=p.sum_dtype)
    kernels.backward_weight[(programs * parts,)](
        grad_y,
        p.x,
        p.offset,
        p.mask,
        partial,
        **p.sizes(grad_y, partial),
        grad_stride=pixel_strides(grad_y),
        out_channels=p.outputs,
        group_outputs=p.group_outputs,
        depth=p.depth,
        tiles=of_a_part,
        **tiles.options(),
    )
    return partial.sum(0).permute(0, 3, 1, 2).to(p.x.dtype, copy=True, memory_format=torch.contiguous_format)


def powers_of(p: Problem, grad_y: Tensor) -> Tensor:
    """For the gradient of input: bounded by grad_y and mask, the sums of the weights' magnitudes, and a sample of every tap."""
    per_column = finite(p.weight).double().abs().unflatten(0, (-1, p.group_outputs)).sum(1)
    bounds = [largest(grad_y), per_column.amax()] + ([] if p.mask is None else [largest(p.mask)])
    return fixed_powers(bounds, math.prod(p.out_size) * p.taps, p.x.dtype == torch.float64)
