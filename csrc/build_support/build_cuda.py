"""Whether dkic's CUDA kernels can be built on this machine, with what and for which GPUs. None of it needs a GPU."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from build_backend import Torch, stop

DEFAULT_ARCHITECTURES = ["7.5", "8.0", "8.6", "9.0+PTX"]


class Cuda(NamedTuple):
    """What the kernels are built with."""

    nvcc: str
    cudart: Path  # torch's own CUDA runtime, so that a process has one
    architectures: list[str]  # as in TORCH_CUDA_ARCH_LIST: 8.6 is code for those GPUs, 8.6+PTX for later ones too

    @property
    def flags(self) -> list[str]:
        """nvcc's, for the architectures."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


class NoCuda(NamedTuple):
    """Why the kernels can't be built, and what to do about it: clauses of a sentence."""

    reason: str
    repair: str


def cuda_to_build_with(torch: Torch) -> Cuda | NoCuda:
    """What to build with, or why there is nothing; stops where DKIC_CUDA=1 asks for the kernels in vain."""
    asked = os.environ.get("DKIC_CUDA", "")
    if asked not in ("", "0", "1"):
        stop(f"DKIC_CUDA must be 0 (no CUDA kernels), 1 (an error where they can't be built) or unset, and is {asked!r}.")
    if asked == "0":
        return NoCuda("DKIC_CUDA=0 left them out", "unset it")
    found = _find(torch)
    if asked == "1" and isinstance(found, NoCuda):
        stop(f"DKIC_CUDA=1 asks for dkic's CUDA kernels, but {found.reason}: {found.repair}.")
    return found


def _find(torch: Torch) -> Cuda | NoCuda:
    version = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)", (torch.folder / "version.py").read_text(), re.MULTILINE)
    if version is None:
        repair = "install a CUDA build of torch, as https://pytorch.org/get-started tells"
        return NoCuda(f"torch {torch.version} is built without CUDA", repair)
    major = version[1].split(".")[0]
    nvcc = find_nvcc()
    if nvcc is None:
        reason = "there was no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda"
        return NoCuda(reason, f"install the CUDA toolkit {major}")
    release = re.search(r"release (\d+)\.\d+", _output([nvcc, "--version"]))
    if release is None or release[1] != major:
        other = f"is of CUDA {release[1]}" if release else "does not tell its version"
        reason = f"torch {torch.version} goes with CUDA {major}, and {nvcc} {other}"
        return NoCuda(reason, f"name a CUDA toolkit {major} in CUDA_HOME")
    cudart = find_cudart(torch, nvcc, major)
    if cudart is None:
        return NoCuda(f"there was no libcudart.so.{major} beside torch or nvcc", "install nvidia-cuda-runtime")
    return Cuda(nvcc, cudart, architectures(nvcc))


def find_nvcc() -> str | None:
    """CUDA_HOME's nvcc where that is set, else the one on PATH or in /usr/local/cuda."""
    if home := os.environ.get("CUDA_HOME"):
        return shutil.which("nvcc", path=f"{home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def find_cudart(torch: Torch, nvcc: str, major: str) -> Path | None:
    """The CUDA runtime that torch loads: NVIDIA's package beside it, or a copy in torch's; else the toolkit's."""
    packages = torch.folder.parent / "nvidia"
    places = [packages / f"cu{major}" / "lib", packages / "cuda_runtime" / "lib", torch.folder / "lib"]
    if toolkit := re.search(r"^#\$ TOP=(.+)$", _output([nvcc, "-dryrun", "-E", "-x", "cu", os.devnull]), re.MULTILINE):
        places += [Path(toolkit[1].strip()) / name for name in ("lib64", "lib")]
    found = (library for place in places for library in sorted(place.glob(f"libcudart*.so.{major}")))
    return next(found, None)


def architectures(nvcc: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST's; else those of the GPUs that are visible, as far as nvcc knows them; else the usual ones."""
    if asked := re.findall(r"[^\s,;]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "")):
        if wrong := next((a for a in asked if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", a)), None):
            stop(f"TORCH_CUDA_ARCH_LIST must list numbers like `8.6 9.0+PTX`, and holds {wrong!r}: set it so, or unset it.")
        return asked
    known = [(int(a), int(b)) for a, b in re.findall(r"compute_(\d+)(\d)\b", _output([nvcc, "--list-gpu-arch"]))]
    smi = shutil.which("nvidia-smi")
    listing = _output([smi, "--query-gpu=compute_cap", "--format=csv,noheader"]) if smi else ""
    seen = {(int(a), int(b)) for a, b in re.findall(r"^(\d+)\.(\d)$", listing, re.MULTILINE)}
    # A GPU that nvcc does not know runs code for the latest before it, or is too old for any.
    chosen = sorted({max(earlier) for gpu in seen if (earlier := [k for k in known if k <= gpu])})
    if not chosen:
        return DEFAULT_ARCHITECTURES
    return [f"{a}.{b}" for a, b in chosen[:-1]] + ["{}.{}+PTX".format(*chosen[-1])]


def _output(command: list[str]) -> str:
    """All that a command prints, whether it fails or not."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
