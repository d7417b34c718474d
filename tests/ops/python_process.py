"""Python in a process of its own, and the instruction set that the kernels use there and here."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import dkic
from dkic.ops import backends

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = Path(dkic.__file__).resolve().parent


def python(*arguments: str, cwd: Path = TESTS, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, with dkic and the tests' modules to import."""
    path = os.pathsep.join(map(str, (PACKAGE.parent, TESTS)))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1800,  # a hang, on however busy a machine
    )


CAPABILITIES = ["default", "avx2", "avx512"]


def capability() -> str:
    """What the kernels use in this process: the best there is, unless DKIC_CPU_CAPABILITY says otherwise."""
    tell = ctypes.CDLL(str(backends.NATIVE / "libdkic_cpu.so")).dkic_cpu_capability
    tell.restype = ctypes.c_char_p
    return tell().decode()
