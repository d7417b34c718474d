"""Which native libraries are built, and the sentence to say where one is missing."""

import ctypes
from functools import cache
from pathlib import Path

import torch

NATIVE = Path(__file__).resolve().parents[1] / "_native"
CAPABILITIES = ("default", "avx2", "avx512")
REBUILD = "build it with `python3 -m pip install -e .` in dkic's source folder (a C++20 compiler is needed)"


@cache
def load_cpu() -> str | None:
    """Load the CPU kernels once. Returns None when they work, else the reason as a sentence."""
    path = NATIVE / "libdkic_cpu.so"
    if not path.exists():
        return f"dkic's CPU kernels are not built: {REBUILD}."
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"dkic's CPU kernels do not load into torch {torch.__version__} ({error}): {REBUILD}."
    capability = cpu_capability(path)
    return None if capability in CAPABILITIES else capability


def cpu_capability(library: Path) -> str:
    """The instruction set that the loaded kernels use, one of CAPABILITIES; else the reason why there is none."""
    query = ctypes.CDLL(str(library)).dkic_cpu_capability
    query.restype = ctypes.c_char_p
    return query().decode()


def why_not(device: torch.device) -> str | None:
    """None where the ops run on `device`, else the reason as a sentence."""
    if device.type == "cpu":
        return load_cpu()
    if device.type == "meta":
        return None
    return f"dkic.ops has no kernels for {device.type} tensors; move them to the CPU with .cpu()."
