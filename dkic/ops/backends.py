"""Which native libraries are built, and the sentence to say where one is missing."""

from functools import cache
from pathlib import Path

import torch

NATIVE = Path(__file__).resolve().parents[1] / "_native"
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
    return None


def why_not(device: torch.device) -> str | None:
    """None where the ops run on `device`, else the reason as a sentence."""
    if device.type == "cpu":
        return load_cpu()
    if device.type == "meta":
        return None
    return f"dkic.ops has no kernels for {device.type} tensors; move them to the CPU with .cpu()."
