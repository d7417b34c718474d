"""ldcn's CUDA kernels, compiled for compute capability 8.6: their registers, their local memory, and how wide they load."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from simt.compilers import CSRC, SIMT, find_nvcc

REGISTERS = {"ldcn_forward_kernel": 64, "ldcn_backward": 96, "ldcn_round": 32, "ldcn_largest": 64}
# 16 bytes of each type, as the names of kernels spell it
WIDEST = {"float": "fLi4E", "double": "dLi2E", "half": "6__halfLi8E", "bfloat16": "13__nv_bfloat16Li8E"}


@dataclass(frozen=True)
class Usage:
    registers: int
    stack: int
    spilled: int


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, str]:
    """The binary, and what ptxas says of it."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
    target = tmp_path_factory.mktemp("compile") / "ldcn.cubin"
    command = [nvcc, "-std=c++20", "-arch=sm_86", "-O3", "-Xptxas", "-v", f"-I{CSRC}", "-cubin", SIMT / "ldcn_compile.cu"]
    done = subprocess.run([*command, "-o", target], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return target, done.stderr


def usages(report: str) -> dict[str, Usage]:
    """By mangled name."""
    found = {}
    for entry in report.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) \D+, (\d+) bytes spill loads", entry).groups())
        registers = int(re.search(r"Used (\d+) registers", entry).group(1))
        found[entry[: entry.index("'")]] = Usage(registers, stack, stores + loads)
    return found


def test_no_local_memory_and_few_registers(compiled):
    kernels = usages(compiled[1])
    # 13 vectors of 4 types, forward and backward; for each type a scatter, one by integers, and their rounding; a rounding for
    # both halves; the largest magnitude for both types of sums
    assert len(kernels) == 2 * 13 + 3 * 4 + 2 + 2
    for name, usage in kernels.items():
        (most,) = [registers for part, registers in REGISTERS.items() if part in name]
        assert usage.stack == 0 and usage.spilled == 0 and usage.registers <= most, f"{name}: {usage}"


def cuobjdump() -> str | None:
    """The toolkit's, or Triton's copy."""
    triton = importlib.util.find_spec("triton")
    folder = Path(triton.origin).parent / "backends/nvidia/bin" if triton else None
    return shutil.which("cuobjdump") or (shutil.which("cuobjdump", path=str(folder)) if folder else None)


def test_channels_are_loaded_16_bytes_at_once(compiled):
    dump = cuobjdump()
    if dump is None:
        pytest.skip("no cuobjdump on PATH or in triton")
    listing = subprocess.run([dump, "-sass", compiled[0]], capture_output=True, text=True, check=True).stdout
    code = {part.split(maxsplit=1)[0]: part for part in listing.split("Function : ")[1:]}
    for kernel in ("ldcn_forward_kernel", "ldcn_backward_samples_kernel"):
        for dtype, mangled in WIDEST.items():
            (found,) = [text for name, text in code.items() if f"{kernel}I{mangled}" in name]
            # a tap's four corners, each by one instruction
            assert len(re.findall(r"\bLDG\.E\.128", found)) >= 4, (kernel, dtype)
