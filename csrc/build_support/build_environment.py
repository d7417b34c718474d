"""The environment that dkic is built in and installed into: its torch, its C++ compiler and Python's headers.

A missing requirement ends the build with a message of one sentence.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple, NoReturn

OLDEST_TORCH = (2, 10)

_FIND_TORCH = """\
import importlib.util, sys
sys.path.pop(0)  # the working directory
spec = importlib.util.find_spec("torch")  # finds it without importing it
print(spec.origin if spec and spec.origin else "")
"""


class Torch(NamedTuple):
    """A torch that can be built against: its version as text and the folder of its package."""

    version: str
    folder: Path


def stop(sentence: str) -> NoReturn:
    """Ends the build with one sentence and no traceback; empty lines make it stand out in pip's output."""
    raise SystemExit(f"\nerror: {sentence}\n")


def installed_torch(python: str = sys.executable) -> Torch | None:
    """The torch of the environment that `python` belongs to, or None.

    pip isolates a build only by PYTHONPATH and PYTHONNOUSERSITE. The same interpreter without these variables has the user's
    search path: site-packages, user site, a virtual environment's base, `.pth` files.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    child = subprocess.run([python, "-c", _FIND_TORCH], env=environment, capture_output=True, text=True)
    return _torch_at(child.stdout.strip())


def torch_to_build_with() -> Torch:
    """The target environment's torch, else the one that pip installed into the build environment; stops if there is none."""
    here = (_torch_at(f"{folder}/torch/__init__.py") for folder in sys.path)
    torch = installed_torch() or next(filter(None, here), None)
    if torch is None:
        stop("dkic is built against torch and found none: run `python3 -m pip install 'torch>=2.10'` first.")
    return checked(torch)


def checked(torch: Torch) -> Torch:
    """The same torch, if it is recent enough; stops otherwise."""
    if tuple(int(part) for part in re.findall(r"\d+", torch.version)[:2]) < OLDEST_TORCH:
        stop(
            f"dkic needs torch 2.10 or later and this environment has torch {torch.version}: "
            "run `python3 -m pip install --upgrade 'torch>=2.10'` first."
        )
    return torch


def cxx_compiler() -> list[str]:
    """The command of the C++ compiler: CXX if it is set, else g++ or clang++ on PATH; stops without one."""
    repair = "install g++ 11 or clang 14, or later (Debian: apt install g++; Fedora: dnf install gcc-c++)"
    if chosen := shlex.split(os.environ.get("CXX", "")):
        if not shutil.which(chosen[0]):
            stop(f"dkic needs a C++20 compiler and CXX={chosen[0]} is not a program: unset CXX or {repair}.")
        return chosen
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    stop(f"dkic needs a C++20 compiler and found none on PATH: {repair}, or name one in CXX.")


def python_headers() -> Path:
    """The folder of Python.h; stops if there is none (some distributions package the headers separately)."""
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").is_file():
        stop(f"dkic needs Python's headers and {folder} has no Python.h: install them (Debian: python3-dev).")
    return folder


def _torch_at(origin: str) -> Torch | None:
    """The torch whose `__init__.py` is `origin`, its version read as text: importing torch takes seconds."""
    version_file = Path(origin).parent / "version.py"
    if not origin or not version_file.is_file():
        return None
    match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", version_file.read_text(), re.MULTILINE)
    return Torch(match[1], version_file.parent) if match else None
