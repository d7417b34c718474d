"""Python in a subprocess, and the instruction set of the kernels."""

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
    """Runs Python in a subprocess, with dkic and the modules of the tests on its path."""
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
    """The instruction set of the kernels in this process: the best available, or DKIC_CPU_CAPABILITY."""
    query = ctypes.CDLL(str(backends.NATIVE / "libdkic_cpu.so")).dkic_cpu_capability
    query.restype = ctypes.c_char_p
    return query().decode()
