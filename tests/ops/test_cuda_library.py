"""What nvcc made of the CUDA kernels, read from the library that the build put there: registers, local memory, wide loads.

That of compute capability 8.6; no GPU is needed. Its multiprocessor has 65,536 registers, 100 KB of shared memory, of which CUDA
takes 1 KB a block, and room for 48 warps.
"""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from dkic.ops import backends

LIBRARY = backends.NATIVE / "libdkic_cuda.so"
REGISTERS, SHARED, WARPS = 65_536, 100 << 10, 48
BLOCK_WARPS = 8  # kLdcnThreads
TYPES = {"f": "float", "d": "double", "6__half": "half", "13__nv_bfloat16": "bfloat16"}
# A thread's registers, at most.
CEILING = {"LdcnForward": 64, "LdcnBackwardSamples": 96, "LdcnBackwardX": 96, "LdcnBackwardXFixed": 96}
CEILING |= {"LdcnRound": 32, "LdcnRoundFixed": 32, "LdcnLargest": 64}
# A block's shared memory, at most: kLdcnTaps of 4 numbers and 8 bytes, half as many in double.
TAPS = {"float": 1024 * (4 * 4 + 8), "double": 512 * (4 * 8 + 8)}


@dataclass(frozen=True)
class Kernel:
    body: str
    dtype: str
    vector: int | None
    registers: int
    stack: int
    local: int

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that registers, given to warps by 256, and shared memory serve."""
        of_a_warp = -(-self.registers // 8) * 8 * 32
        blocks = REGISTERS // of_a_warp // BLOCK_WARPS
        if self.body in ("LdcnForward", "LdcnBackwardSamples", "LdcnBackwardX", "LdcnBackwardXFixed"):
            blocks = min(blocks, SHARED // (TAPS["double" if self.dtype == "double" else "float"] + 1024))
        return min(blocks * BLOCK_WARPS, WARPS) / WARPS


@pytest.fixture(scope="module")
def cuobjdump():
    """Runs the toolkit's cuobjdump, or Triton's, on the library's code for 8.6."""
    if reason := backends.load_cuda():
        pytest.skip(reason)
    if not any(built.startswith("8.6") for built in backends.cuda_build()["architectures"]):
        pytest.skip("the CUDA kernels are not built for compute capability 8.6: unset TORCH_CUDA_ARCH_LIST, or add it")
    triton = importlib.util.find_spec("triton")
    folder = Path(triton.origin).parent / "backends/nvidia/bin" if triton else None
    program = shutil.which("cuobjdump", path=str(folder)) if folder else shutil.which("cuobjdump")
    if program is None:
        pytest.skip("no cuobjdump in triton's package or on PATH")

    def run(what: str) -> str:
        return subprocess.run([program, what, "-arch", "sm_86", LIBRARY], capture_output=True, text=True, check=True).stdout

    return run


def named(name: str) -> tuple[str, str, int | None]:
    """The body, the type of its data and the channels of its vectors, from a kernel's mangled name."""
    body, dtype, vector = re.search(r"kernelINS0_\d+([A-Za-z]+?)I(f|d|6__half|13__nv_bfloat16)(?:Li(\d)E)?E", name).groups()
    return body, TYPES[dtype], vector and int(vector)


@pytest.fixture(scope="module")
def kernels(cuobjdump) -> set[Kernel]:
    usage = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    return {Kernel(*named(name), *map(int, rest)) for name, *rest in re.findall(usage, cuobjdump("-res-usage"))}


def test_every_kernel_is_there(kernels):
    """13 vectors of 4 types, forward and backward; for each type a scatter, one by integers, and their rounding; a rounding for
    both halves; the largest magnitude for both types of sums."""
    assert len(kernels) == 2 * 13 + 3 * 4 + 2 + 2
    assert {k.body for k in kernels} == set(CEILING)


def test_nothing_spills(kernels):
    assert [k for k in kernels if k.stack or k.local] == []


def test_registers_leave_room_for_many_warps(kernels):
    assert [k for k in kernels if k.registers > CEILING[k.body]] == []
    assert [(k, k.occupancy) for k in kernels if k.occupancy < 0.5] == []


def test_channels_are_loaded_16_bytes_at_once(cuobjdump):
    """In the widest kernels a tap's four corners take one instruction each, and y one more."""
    seen = set()
    for text in cuobjdump("-sass").split("Function : ")[1:]:
        body, dtype, vector = named(text.split(maxsplit=1)[0])
        if body in ("LdcnForward", "LdcnBackwardSamples") and vector == {"float": 4, "double": 2}.get(dtype, 8):
            seen.add((body, dtype))
            assert len(re.findall(r"\bLDG\.E\.128", text)) >= 4, (body, dtype)
            assert body != "LdcnForward" or re.search(r"\bSTG\.E\.128", text), dtype
    assert len(seen) == 2 * 4
