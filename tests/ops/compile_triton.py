"""Compiles the Triton kernels of the Gaussian ops without a GPU, with the arguments of their launches; prints statistics (JSON).

Run as `python compile_triton.py 86`, the compute capability. test_triton_compile.py reads the output.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from ops.op_cases import LikelihoodCase
from ops.sass import parse
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from dkic.ops.triton import gaussian_likelihood as gaussian_likelihood_triton
from dkic.ops.triton import gaussian_symbols as gaussian_symbols_triton

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class AbsentGpu:
    """The part of a Triton driver that compilation needs."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def cuobjdump(what: str, kernel) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        return subprocess.run([CUOBJDUMP, what, file.name], capture_output=True, text=True, check=True).stdout


def usage(kernel, problem: str) -> dict:
    text = cuobjdump("-res-usage", kernel)
    counts = {name.lower(): int(re.search(rf"\b{name}:(\d+)", text).group(1)) for name in ("REG", "STACK", "LOCAL", "SHARED")}
    ptx = kernel.asm["ptx"]
    return {
        "kernel": kernel.metadata.name.lstrip("_"),
        "problem": problem,
        "warps": kernel.metadata.num_warps,
        "loads_of_16_bytes": len(re.findall(r"ld\.global.*\.v4\.b32", ptx)),
        "stores_of_16_bytes": len(re.findall(r"st\.global.*\.v4\.b32", ptx)),
        "rounding_to_bfloat16": sorted(set(re.findall(r"cvt\.(\w+)\.(?:relu\.)?bf16(?:x2)?\.f32", ptx))),
        "approximations": sorted(set(re.findall(r"\b\w+\.(?:approx|full|ftz)\b\S*", ptx))),
        "tensor_core_products": len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async)\S*\.(?:f16|bf16|tf32)\b", ptx)),
        "dynamic_shared": kernel.metadata.shared,
        **counts,
    }


def machine_code(kernel) -> dict:
    """Statistics that need SASS. Disassembly takes half a second per kernel, about as long as ptxas."""
    sass = cuobjdump("-sass", kernel)
    return {
        "global_loads_of_16_bytes": len(re.findall(r"\bLDG(?:STS)?\.E[.\w]*\.128\b", sass)),
        "instructions": len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S", sass)),
        "longest_loop": max((len(loop) for code in parse(sass).values() for loop in code.loops), default=0),
    }


def channels_last_slice(t: torch.Tensor) -> torch.Tensor:
    return torch.cat([t, t], 1).contiguous(memory_format=torch.channels_last)[:, : t.shape[1]]


def swapped(t: torch.Tensor) -> torch.Tensor:
    return channels_last_slice(t).transpose(2, 3)


def launch(dtype: torch.dtype, shape: tuple[int, ...], layout, mode: str) -> None:
    case = LikelihoodCase("", shape)
    y, scale, mean = (layout(t) for t in case.tensors(dtype))
    noise, seed = case.noise(dtype) if mode == "given" else None, torch.tensor(1) if mode == "drawn" else None
    args = y, scale, mean, noise, seed, mode == "round", 0.11
    gaussian_likelihood_triton.forward(*args, True, False, False)
    _, bits, by_v, by_scale = gaussian_likelihood_triton.forward(*args, False, True, True)
    gaussian_symbols_triton.forward(y, scale, mean, 0.11, 256.0, 64)
    gaussian_likelihood_triton.backward(y, bits, by_v, by_scale, scale, 0.11, True, True, True)


def launch_counted(compiled: "Compiled") -> None:
    """Forward passes of float32, whose instructions are counted."""
    tensors = LikelihoodCase("", (2, 192, 16, 16)).tensors(torch.float32)
    for compiled.problem, (seed, derivatives, memory_format) in COUNTED.items():
        y, scale, mean = (t.contiguous(memory_format=memory_format) for t in tensors)
        args = y, scale, mean, None, seed, seed is None, 0.11, False, derivatives, derivatives
        gaussian_likelihood_triton.forward(*args)


# Seed of the noise, whether derivatives are computed, memory format.
COUNTED = {
    "bits, noise": (torch.tensor(1), False, torch.contiguous_format),
    "bits, rounded": (None, False, torch.contiguous_format),
    "bits and derivatives, noise": (torch.tensor(1), True, torch.contiguous_format),
    "bits and derivatives, rounded": (None, True, torch.contiguous_format),
    "bits and derivatives, noise, channels last": (torch.tensor(1), True, torch.channels_last),
}


# With and without vectorized access; one axis and several.
PROBLEMS = [
    (torch.float32, (2, 192, 16, 16), torch.Tensor.contiguous, "drawn"),
    (torch.float32, (2, 31, 5, 7), torch.Tensor.contiguous, "given"),
    (torch.float32, (2, 192, 16, 16), channels_last_slice, "round"),
    (torch.float32, (2, 31, 5, 7), swapped, "drawn"),
    (torch.float64, (2, 31, 5, 7), swapped, "drawn"),
    (torch.bfloat16, (2, 192, 16, 16), torch.Tensor.contiguous, "round"),
    (torch.bfloat16, (2, 31, 5, 7), swapped, "drawn"),
]


class Compiled:
    """Replaces launches by compilation. problem: the current problem. disassembled: problems whose machine code is read."""

    def __init__(self, capability: int, disassembled: tuple[str, ...] = ()):
        driver.set_active(AbsentGpu(capability))
        self.problem, self.disassembled, self.kernels = "", disassembled, {}

        def launcher(kernel, grid):
            return lambda *args, **options: self.kernels.setdefault(
                kernel.run(*args, grid=grid, warmup=True, **options), self.problem
            )

        JITFunction.__getitem__ = launcher

    def print(self) -> None:
        found = [
            usage(kernel, problem) | (machine_code(kernel) if problem in self.disassembled else {})
            for kernel, problem in self.kernels.items()
        ]
        print(json.dumps(found))


def main() -> None:
    compiled = Compiled(int(sys.argv[1]), disassembled=tuple(COUNTED))
    launch_counted(compiled)  # first, because a kernel keeps the name of the first problem it is compiled for
    for dtype, shape, layout, mode in PROBLEMS:
        compiled.problem = f"{str(dtype)[6:]} {list(shape)} {layout.__name__} {mode}"
        launch(dtype, shape, layout, mode)
    compiled.problem = "64-bit element indexes"
    y = torch.ones(1).expand(1, 2**30 + 1)
    gaussian_likelihood_triton.forward(y, y, None, None, None, False, 0.11, True, False, False)
    compiled.print()


if __name__ == "__main__":
    main()
