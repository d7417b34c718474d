"""Machine code of the CUDA kernels, read from the built library: registers, local memory, wide loads.

For compute capability 8.6, and 9.0 where a test says so; no GPU is needed. A multiprocessor of 8.6 has 65,536 registers, 100 KB
of shared memory, of which CUDA takes 1 KB a block, and room for 48 warps.
"""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from ops import sass

from dkic.ops import backends

LIBRARY = backends.NATIVE / "libdkic_cuda.so"
REGISTERS, SHARED, WARPS = 65_536, 100 << 10, 48
BLOCK_WARPS = 8  # kLdcnThreads
TYPES = {"f": "float", "d": "double", "6__half": "half", "13__nv_bfloat16": "bfloat16"}
# A thread's registers, at most.
CEILING = {"LdcnForward": 64, "LdcnWarpForward": 80, "LdcnBackwardSamples": 96, "LdcnWarpSamples": 128}
CEILING |= {"LdcnBackwardX": 96, "LdcnWindowScatter": 128, "LdcnBackwardXFixed": 96}
CEILING |= {"LdcnRound": 32, "LdcnRoundFixed": 32, "LdcnLargest": 64}
WARP = ("LdcnWarpForward", "LdcnWarpSamples")
# A block's shared memory, at most: kLdcnTaps of 4 numbers and 8 bytes, half as many in double.
TAPS = {"float": 1024 * (4 * 4 + 8), "double": 512 * (4 * 8 + 8)}


@dataclass(frozen=True)
class Name:
    body: str
    dtype: str  # of x
    offset: str | None  # the type of offset and mask, where a kernel is compiled for it
    numbers: tuple[int, ...]  # the body's other template arguments


@dataclass(frozen=True)
class Kernel(Name):
    registers: int
    stack: int
    local: int

    @property
    def occupancy(self) -> float:
        """Occupancy: the share of a multiprocessor's warps that fit into registers (allocated by 256) and shared memory."""
        of_a_warp = -(-self.registers // 8) * 8 * 32
        blocks = REGISTERS // of_a_warp // BLOCK_WARPS
        if self.body in ("LdcnForward", "LdcnBackwardSamples", "LdcnBackwardX", "LdcnBackwardXFixed"):
            blocks = min(blocks, SHARED // (TAPS["double" if self.dtype == "double" else "float"] + 1024))
        return min(blocks * BLOCK_WARPS, WARPS) / WARPS


@pytest.fixture(scope="module")
def cuobjdump():
    """Runs the toolkit's cuobjdump, or Triton's, on the library's code for an architecture, 8.6 unless another is asked for."""
    if reason := backends.load_cuda():
        pytest.skip(reason)
    triton = importlib.util.find_spec("triton")
    folder = Path(triton.origin).parent / "backends/nvidia/bin" if triton else None
    program = shutil.which("cuobjdump", path=str(folder)) if folder else shutil.which("cuobjdump")
    if program is None:
        pytest.skip("no cuobjdump in triton's package or on PATH")

    @cache
    def run(what: str, architecture: str = "8.6") -> str:
        if not any(built.startswith(architecture) for built in backends.cuda_build()["architectures"]):
            repair = "unset TORCH_CUDA_ARCH_LIST, or add it"
            pytest.skip(f"the CUDA kernels are not built for compute capability {architecture}: {repair}")
        command = [program, what, "-arch", f"sm_{architecture.replace('.', '')}", LIBRARY]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


def named(name: str) -> Name:
    """What a kernel's mangled name says."""
    scalar = "f|d|6__half|13__nv_bfloat16"
    pattern = rf"kernelINS0_\d+([A-Za-z]+?)I({scalar})(?:({scalar}|S3_))?((?:Li\d+E)*)E"
    body, dtype, offset, numbers = re.search(pattern, name).groups()
    numbers = tuple(map(int, re.findall(r"Li(\d+)E", numbers)))
    return Name(body, TYPES[dtype], TYPES[dtype if offset == "S3_" else offset] if offset else None, numbers)


@pytest.fixture(scope="module")
def kernels(cuobjdump) -> set[Kernel]:
    usage = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    found = re.findall(usage, cuobjdump("-res-usage"))
    return {Kernel(*vars(named(name)).values(), *map(int, rest)) for name, *rest in found}


def test_every_kernel_is_there(kernels):
    """13 vectors of 4 types, forward and backward; for each type a scatter, one by integers, and their rounding; a rounding for
    both halves; the largest magnitude for both types of sums. With offset and mask in float, and for halves in halves too: two
    warp kernels of 3x3 and 5x5 taps, groups of 2, 4 and 8 lanes; a window's kernel, groups of 16 and 24 channels."""
    assert len(kernels) == 2 * 13 + 3 * 4 + 2 + 2 + (2 * 6 + 2) * 5
    assert {k.body for k in kernels} == set(CEILING)


def test_nothing_spills(kernels):
    assert [k for k in kernels if k.stack or k.local] == []


def test_registers_leave_room_for_many_warps(kernels):
    assert [k for k in kernels if k.registers > CEILING[k.body]] == []
    for k in kernels:
        few = k.body == "LdcnWindowScatter" or (k.body == "LdcnWarpSamples" and k.numbers[0] == 5)
        least = 1 / 3 if few else 1 / 2
        assert k.occupancy >= least, k


def test_channels_are_loaded_16_bytes_at_once(cuobjdump):
    """In the widest kernels a tap's four corners take one instruction each, and y one more."""
    seen = set()
    for name, code in sass.parse(cuobjdump("-sass")).items():
        of = named(name)
        widest = of.numbers == ({"float": 4, "double": 2}.get(of.dtype, 8),)
        if of.body in WARP or (of.body in ("LdcnForward", "LdcnBackwardSamples") and widest):
            seen.add((of.body, of.dtype))
            assert code.count(r"\bLDG\.E\.128") >= 4, of
            assert "Samples" in of.body or code.count(r"\bSTG\.E(\.EF)?\.128"), of
    assert len(seen) == 2 * 4 + 2 * 3


# Lanes of a group, for the codec's 8 groups of 24 channels.
LANES = {"float": 8, "half": 4, "bfloat16": 4}
# Instructions at most. The general forward takes 166 in float and 337 in half.
INSTRUCTIONS = {("LdcnWarpForward", "float"): 65, ("LdcnWarpForward", "half"): 150, ("LdcnWarpForward", "bfloat16"): 150}
INSTRUCTIONS |= {("LdcnWarpSamples", "float"): 105, ("LdcnWarpSamples", "half"): 185, ("LdcnWarpSamples", "bfloat16"): 185}


@pytest.mark.parametrize("architecture, more", [("8.6", 0), ("9.0", 5)])  # 9.0 moves constants to registers first
@pytest.mark.parametrize("dtype", LANES)
@pytest.mark.parametrize("body", WARP)
def test_instructions_of_a_warp_kernel(cuobjdump, body, dtype, architecture, more):
    """Instructions of a warp for each tap of 32 vectors of 16 bytes, branches that are rarely taken included.

    A step of the loop is four positions, 6 vectors and 9 taps; what comes before the loop is done once in two steps.
    """
    checked = 0
    for name, code in sass.parse(cuobjdump("-sass", architecture)).items():
        of = named(name)
        if (of.body, of.dtype, of.numbers) != (body, dtype, (3, LANES[dtype])):
            continue
        step = code.innermost(r"\bLDG\.E\.(EF\.)?128", 9 * 4 + (body == "LdcnWarpSamples"))  # and grad_y
        per_vector = (len(step) + step.first / 2) * 32 / (4 * 6 * 9)
        print(f"{body}, {architecture}, {dtype}, offset in {of.offset}: {per_vector:.1f}")
        assert per_vector <= INSTRUCTIONS[body, dtype] + more, of
        checked += 1
    assert checked == (1 if dtype == "float" else 2)
