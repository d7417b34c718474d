"""Machine code of the CUDA kernels, read from the built library: registers, local memory, wide loads.

For the compute capabilities of ARCHITECTURES, and 8.0 for spills; no GPU is needed. A multiprocessor has 65,536 registers, and
CUDA takes 1 KB of shared memory a block.
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
ARCHITECTURES = ("8.6", "9.0")
REGISTERS = 65_536
SHARED = {"8.6": 100 << 10, "9.0": 228 << 10}  # bytes of a multiprocessor's shared memory
WARPS = {"8.6": 48, "9.0": 64}  # that a multiprocessor has room for
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

    def resident_warps(self, architecture: str) -> int:
        """The warps of a multiprocessor that fit into registers (allocated by 256) and shared memory."""
        of_a_warp = -(-self.registers // 8) * 8 * 32
        blocks = REGISTERS // of_a_warp // BLOCK_WARPS
        if self.body in ("LdcnForward", "LdcnBackwardSamples", "LdcnBackwardX", "LdcnBackwardXFixed"):
            blocks = min(blocks, SHARED[architecture] // (TAPS["double" if self.dtype == "double" else "float"] + 1024))
        return min(blocks * BLOCK_WARPS, WARPS[architecture])


@pytest.fixture(scope="module")
def cuobjdump():
    """Runs the toolkit's cuobjdump, or Triton's, on the library's code for an architecture."""
    if reason := backends.load_cuda():
        pytest.skip(reason)
    triton = importlib.util.find_spec("triton")
    folder = Path(triton.origin).parent / "backends/nvidia/bin" if triton else None
    program = shutil.which("cuobjdump", path=str(folder)) if folder else shutil.which("cuobjdump")
    if program is None:
        pytest.skip("no cuobjdump in triton's package or on PATH")

    @cache
    def run(what: str, architecture: str) -> str:
        if not any(built.startswith(architecture) for built in backends.cuda_build()["architectures"]):
            repair = "unset TORCH_CUDA_ARCH_LIST, or add it"
            pytest.skip(f"the CUDA kernels are not built for compute capability {architecture}: {repair}")
        command = [program, what, "-arch", f"sm_{architecture.replace('.', '')}", LIBRARY]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


def named(name: str) -> Name:
    """A kernel and its template arguments, from the mangled name."""
    scalar = "f|d|6__half|13__nv_bfloat16"
    pattern = rf"kernelINS0_\d+([A-Za-z]+?)I({scalar})(?:({scalar}|S3_))?((?:Li\d+E)*)E"
    body, dtype, offset, numbers = re.search(pattern, name).groups()
    numbers = tuple(map(int, re.findall(r"Li(\d+)E", numbers)))
    return Name(body, TYPES[dtype], TYPES[dtype if offset == "S3_" else offset] if offset else None, numbers)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def kernels(cuobjdump, architecture) -> set[Kernel]:
    usage = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    found = re.findall(usage, cuobjdump("-res-usage", architecture))
    return {Kernel(*vars(named(name)).values(), *map(int, rest)) for name, *rest in found}


@pytest.fixture(scope="module")
def codes(cuobjdump):
    """`codes(architecture)`: the kernels' machine code."""

    @cache
    def of(architecture: str) -> dict[Name, sass.Code]:
        return {named(name): code for name, code in sass.parse(cuobjdump("-sass", architecture)).items()}

    return of


def test_every_kernel_is_there(kernels):
    """13 vectors of 4 types, forward and backward; for each type a scatter, one by integers, and their rounding; a rounding for
    both halves; the largest magnitude for both types of sums. With offset and mask in float, and for halves in halves too: two
    warp kernels of 3x3 and 5x5 taps, groups of 2, 4 and 8 lanes; a window's kernel, groups of 16, 24 and 32 channels."""
    assert len(kernels) == 2 * 13 + 3 * 4 + 2 + 2 + (2 * 6 + 3) * 5
    assert {k.body for k in kernels} == set(CEILING)


@pytest.mark.parametrize("architecture", ("8.0", *ARCHITECTURES), indirect=True)
def test_nothing_spills(kernels):
    assert [k for k in kernels if k.stack or k.local] == []


def test_no_access_to_local_memory(codes, architecture):
    """Neither spilled registers nor arrays that the compiler could not keep in registers."""
    assert {of: n for of, code in codes(architecture).items() if (n := code.count(r"\b(LDL|STL)\b"))} == {}


def test_registers_leave_room_for_many_warps(kernels, architecture):
    assert [k for k in kernels if k.registers > CEILING[k.body]] == []
    for k in kernels:
        few = k.body == "LdcnWindowScatter" or (k.body == "LdcnWarpSamples" and k.numbers[0] == 5)
        assert k.resident_warps(architecture) >= (16 if few else 24), k


def test_channels_are_loaded_16_bytes_at_once(codes, architecture):
    """In the widest kernels, each corner of a tap is loaded, and y stored, by one instruction."""
    seen = set()
    for of, code in codes(architecture).items():
        widest = of.numbers == ({"float": 4, "double": 2}.get(of.dtype, 8),)
        if of.body in WARP or (of.body in ("LdcnForward", "LdcnBackwardSamples") and widest):
            seen.add((of.body, of.dtype))
            assert code.count(r"\bLDG\.E\.128") >= 4, of
            assert "Samples" in of.body or code.count(r"\bSTG\.E(\.EF)?\.128"), of
    assert len(seen) == 2 * 4 + 2 * 3


def test_halves_are_rounded_four_at_once(codes, architecture):
    checked = 0
    for of, code in codes(architecture).items():
        if of.body == "LdcnRound":
            checked += 1
            assert code.count(r"\bLDG\.E\.128") and code.count(r"\bSTG\.E\.64"), of
    assert checked == 2


# Atomics of a warp for a row of its columns, by quads of channels in a group.
SINGLE, VECTOR = r"\bREDG?\.E\.ADD\.F32\.", r"\bREDG?\.E\.ADD\.F32x4\."
ATOMICS = {"8.6": (SINGLE, {4: 5, 6: 4, 8: 5}), "9.0": (VECTOR, {4: 2, 6: 1, 8: 2})}


@pytest.mark.parametrize("architecture", ATOMICS, indirect=True)
def test_atomics_of_a_row(codes, architecture):
    """As few as 32 lanes need for a warp's columns and the one to their right: a channel a lane; four from 9.0 on."""
    opcode, expected = ATOMICS[architecture]
    checked = 0
    for of, code in codes(architecture).items():
        if of.body == "LdcnWindowScatter":
            checked += 1
            row = code.innermost(r"\bSHFL", 4)  # which move what falls on the next column
            assert code.count(opcode, row) == code.count(r"\bREDG?\.", row) == expected[of.numbers[0]], of
    assert checked == 3 * 5


# Instructions at most: for a row of a warp's columns, and for a tap of the row, which is a loop of its own within.
ROW, TAP = {"8.6": 170, "9.0": 136}, {"8.6": 24, "9.0": 25}


@pytest.mark.parametrize("architecture", ROW, indirect=True)
def test_instructions_of_the_window_scatter(codes, architecture):
    """A tap adds 16 products; it reads its weights and grad_y in one access each, and the next tap's position."""
    checked = 0
    for of, code in codes(architecture).items():
        if of.body == "LdcnWindowScatter":
            checked += 1
            tap, row = code.innermost(r"\bFFMA\b", 16), code.innermost(r"\b(FFMA|SHFL)\b", 16 + 4)
            print(f"{of.numbers[0] * 4} channels, {of.dtype}, {architecture}: {len(row)} a row, {len(tap)} a tap")
            assert len(row) <= ROW[architecture] and len(tap) <= TAP[architecture], of
            assert code.count(r"\bLDS\.128", tap) == 2 and code.count(r"\bLDS\b", tap) == 3, of
    assert checked == 3 * 5


# Groups, and channels of each: the codec's, and 128 channels, of which DCNv4's benchmark has images of 56x56.
SHAPES = {"codec": (8, 24), "DCNv4, 4 groups": (4, 32), "DCNv4, 8 groups": (8, 16)}
# Instructions at most. The general forward takes 166 in float and 337 in half.
INSTRUCTIONS = {("LdcnWarpForward", "float"): 65, ("LdcnWarpForward", "half"): 150, ("LdcnWarpForward", "bfloat16"): 150}
INSTRUCTIONS |= {("LdcnWarpSamples", "float"): 105, ("LdcnWarpSamples", "half"): 185, ("LdcnWarpSamples", "bfloat16"): 185}


def lanes_and_vectors(shape: str, dtype: str) -> tuple[int, int]:
    """Lanes per group, and 16-byte vectors of the eight lanes of a position, as in ldcn_warp_plan."""
    groups, depth = SHAPES[shape]
    of_group = depth * (4 if dtype == "float" else 2) // 16
    lanes = next(lanes for lanes in (2, 4, 8) if lanes >= of_group and groups % (8 // lanes) == 0)
    return lanes, of_group * 8 // lanes


@pytest.mark.parametrize(
    ("architecture", "more"), [("8.6", 0), ("9.0", 5)], indirect=["architecture"]
)  # 9.0 moves constants to registers first
@pytest.mark.parametrize("dtype", ["float", "half", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("body", WARP)
def test_instructions_of_a_warp_kernel(codes, body, shape, dtype, architecture, more):
    """Instructions of a warp for each tap of 32 vectors of 16 bytes, branches that are rarely taken included.

    A step of the loop is four positions and 9 taps; what comes before the loop is done once in two steps.
    """
    lanes, vectors = lanes_and_vectors(shape, dtype)
    checked = 0
    for of, code in codes(architecture).items():
        if (of.body, of.dtype, of.numbers) != (body, dtype, (3, lanes)):
            continue
        step = code.innermost(r"\bLDG\.E\.(EF\.)?128", 9 * 4 + (body == "LdcnWarpSamples"))  # and grad_y
        per_vector = (len(step) + step.first / 2) * 32 / (4 * vectors * 9)
        print(f"{body}, {shape}, {architecture}, {dtype}, offset in {of.offset}: {per_vector:.1f}")
        assert per_vector <= INSTRUCTIONS[body, dtype] + more, of
        checked += 1
    assert checked == (1 if dtype == "float" else 2)
