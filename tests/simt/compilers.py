"""The C++ compiler, for tests that build programs."""

import fcntl
import hashlib
import os
import platform
import subprocess
from pathlib import Path

import pytest

SIMT = Path(__file__).resolve().parent
CSRC = SIMT.parents[1] / "csrc"

needs_emulator = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the emulator switches stacks in x86-64 assembly"
)

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1")


def compile_cpp(source: Path, target: Path, *flags: str) -> Path:
    """Compiles one file to an executable, unless the flags specify another output."""
    compiler = os.environ.get("CXX", "g++").split()
    warnings = ("-Wall", "-Wextra", "-Werror")
    command = [*compiler, "-std=c++20", "-O1", *warnings, *flags, f"-I{CSRC}", f"-I{SIMT}", source, "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def compile_once(factory: pytest.TempPathFactory, source: Path, *flags: str) -> Path:
    """As `compile_cpp`, once for all modules and all processes of a run of pytest: the sanitized ldcn takes a minute."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    target = folder / f"{source.stem}-{hashlib.sha256(repr(flags).encode()).hexdigest()[:8]}"
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            compile_cpp(source, folder / f"{target.name}.part", *flags).rename(target)
    return target
