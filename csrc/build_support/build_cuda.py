"""Whether dkic's CUDA kernels can be built on this machine, with which nvcc and for which GPUs. No GPU is needed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from build_environment import Torch, stop

DEFAULT_ARCHITECTURES = ["7.5", "8.0", "8.6", "9.0+PTX"]


# The oldest CUDA whose nvcc NVIDIA publishes as Python packages; those of CUDA 12 contain only ptxas.
OLDEST_PACKAGED = 13
# NVIDIA's metapackage of a toolkit, which pins the versions of its packages: from CUDA 13.3 on their version numbers differ, and
# nvidia-cuda-nvcc alone would get the latest headers. torch >= 2.11 requires it too, so pip resolves both to one version.
PACKAGED_NVCC = "cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]"


class Nvcc(NamedTuple):
    """The CUDA compiler, and where it came from."""

    path: str
    version: str  # 13.0.88; "" if it does not print it
    packages: Path | None = None  # the folder of NVIDIA's Python packages, nvidia/cu13; None: a toolkit of the machine
    reason: str = ""  # why no toolkit of the machine was used; a clause

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0] or 0)

    @property
    def origin(self) -> str:
        where = f"from NVIDIA's Python packages, because {self.reason}" if self.packages else f"({self.path})"
        return f"nvcc {self.version} {where}"


class Cuda(NamedTuple):
    """Compiler, CUDA runtime and architectures of the kernels."""

    nvcc: Nvcc
    cudart: Path  # torch's own CUDA runtime, so that a process has one
    architectures: list[str]  # as in TORCH_CUDA_ARCH_LIST: 8.6 is code for those GPUs, 8.6+PTX for later ones too

    @property
    def flags(self) -> list[str]:
        """The flags of nvcc for the architectures."""
        flags = []
        for architecture in self.architectures:
            number = architecture.removesuffix("+PTX").replace(".", "")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if architecture.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags

    @property
    def record(self) -> dict:
        """The facts on the build that dkic.ops.backends reads."""
        return {"architectures": self.architectures, "compiler": self.nvcc.origin}


class NoCuda(NamedTuple):
    """Why the kernels cannot be built, and what to do about it: clauses of a sentence."""

    reason: str
    repair: str

    @property
    def record(self) -> dict:
        return self._asdict()


def asked_for() -> str:
    """DKIC_CUDA: "0", "1" or ""; stops at anything else."""
    asked = os.environ.get("DKIC_CUDA", "")
    if asked not in ("", "0", "1"):
        stop(f"DKIC_CUDA must be 0 (no CUDA kernels), 1 (an error where they can't be built) or unset, and is {asked!r}.")
    return asked


def cuda_to_build_with(torch: Torch) -> Cuda | NoCuda:
    """What to build with, or why the kernels cannot be built; stops in the latter case if DKIC_CUDA=1 requires them."""
    asked = asked_for()
    if asked == "0":
        return NoCuda("DKIC_CUDA=0 left them out", "unset it")
    found = _find(torch)
    if asked == "1" and isinstance(found, NoCuda):
        stop(f"DKIC_CUDA=1 asks for dkic's CUDA kernels, but {found.reason}: {found.repair}.")
    return found


def nvcc_requirements(torch: Torch | None) -> list[str]:
    """Build requirements that provide nvcc; empty if one is found, or torch cannot use it. torch=None: pip will install torch."""
    if asked_for() == "0":
        return []
    if torch is None:
        nvcc = toolkit_nvcc()
        return [] if nvcc and nvcc.major >= OLDEST_PACKAGED else [PACKAGED_NVCC]
    cuda = cuda_of(torch)
    if cuda is None or cuda[0] < OLDEST_PACKAGED or isinstance(find_nvcc(torch, cuda), Nvcc):
        return []
    return [_packaged_nvcc_of(cuda)]


def cuda_of(torch: Torch) -> tuple[int, int] | None:
    """The CUDA version that torch is built for, None without CUDA."""
    text = (torch.folder / "version.py").read_text()
    version = re.search(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(version[1]), int(version[2])) if version else None


def _find(torch: Torch) -> Cuda | NoCuda:
    cuda = cuda_of(torch)
    if cuda is None:
        repair = "install a CUDA build of torch from https://pytorch.org/get-started"
        return NoCuda(f"torch {torch.version} is built without CUDA", repair)
    nvcc = find_nvcc(torch, cuda)
    if isinstance(nvcc, NoCuda):
        return nvcc
    cudart = find_cudart(torch, nvcc.path, cuda[0])
    if cudart is None:
        return NoCuda(f"there was no libcudart.so.{cuda[0]} beside torch or nvcc", "install nvidia-cuda-runtime")
    return Cuda(nvcc, cudart, architectures(nvcc.path))


def find_nvcc(torch: Torch, cuda: tuple[int, int]) -> Nvcc | NoCuda:
    """nvcc of torch's CUDA major version: a toolkit's, else that of NVIDIA's Python packages; else why there is none."""
    major = cuda[0]
    nvcc = toolkit_nvcc()
    if nvcc and nvcc.major == major:
        return nvcc
    if nvcc is None:
        reason, repair = "there was no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda", f"install the CUDA toolkit {major}"
    else:
        other = f"is of CUDA {nvcc.major}" if nvcc.version else "does not print its version"
        reason = f"torch {torch.version} goes with CUDA {major}, and {nvcc.path} {other}"
        repair = f"name a CUDA toolkit {major} in CUDA_HOME"
    if major >= OLDEST_PACKAGED:
        if packaged := packaged_nvcc(major, reason):
            return packaged
        repair += f", or run `python3 -m pip install '{_packaged_nvcc_of(cuda)}'`"
    return NoCuda(reason, repair)


def _packaged_nvcc_of(cuda: tuple[int, int]) -> str:
    return f"{PACKAGED_NVCC}=={cuda[0]}.{cuda[1]}.*"


def toolkit_nvcc() -> Nvcc | None:
    """CUDA_HOME's nvcc if that is set, else the one on PATH or in /usr/local/cuda."""
    if home := os.environ.get("CUDA_HOME"):
        path = shutil.which("nvcc", path=f"{home}/bin")
    else:
        path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Nvcc(path, _version(path)) if path else None


def packaged_nvcc(major: int, reason: str) -> Nvcc | None:
    """nvcc of NVIDIA's Python packages, which pip installs into the build environment."""
    for folder in sys.path:
        packages = Path(folder, "nvidia", f"cu{major}").absolute()
        if path := shutil.which("nvcc", path=f"{packages}/bin"):
            return Nvcc(path, _version(path), packages, reason)
    return None


def _version(nvcc: str) -> str:
    version = re.search(r"\bV(\d+\.\d+\.\d+)", _output([nvcc, "--version"]))
    return version[1] if version else ""


def find_cudart(torch: Torch, nvcc: str, major: int) -> Path | None:
    """The CUDA runtime that torch loads: NVIDIA's package beside it, or a copy in torch's; else the toolkit's."""
    packages = torch.folder.parent / "nvidia"
    places = [packages / f"cu{major}" / "lib", packages / "cuda_runtime" / "lib", torch.folder / "lib"]
    if toolkit := re.search(r"^#\$ TOP=(.+)$", _output([nvcc, "-dryrun", "-E", "-x", "cu", os.devnull]), re.MULTILINE):
        places += [Path(toolkit[1].strip()) / name for name in ("lib64", "lib")]
    found = (library for place in places for library in sorted(place.glob(f"libcudart*.so.{major}")))
    return next(found, None)


def architectures(nvcc: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST; else those of the visible GPUs that nvcc supports; else DEFAULT_ARCHITECTURES."""
    if asked := re.findall(r"[^\s,;]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "")):
        if wrong := next((a for a in asked if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", a)), None):
            stop(f"TORCH_CUDA_ARCH_LIST must list numbers like `8.6 9.0+PTX`, and holds {wrong!r}: set it so, or unset it.")
        return asked
    known = [(int(a), int(b)) for a, b in re.findall(r"compute_(\d+)(\d)\b", _output([nvcc, "--list-gpu-arch"]))]
    smi = shutil.which("nvidia-smi")
    listing = _output([smi, "--query-gpu=compute_cap", "--format=csv,noheader"]) if smi else ""
    seen = {(int(a), int(b)) for a, b in re.findall(r"^(\d+)\.(\d)$", listing, re.MULTILINE)}
    # A GPU newer than nvcc runs code for the latest architecture before it; a GPU may also be too old for any.
    chosen = sorted({max(earlier) for gpu in seen if (earlier := [k for k in known if k <= gpu])})
    if not chosen:
        return DEFAULT_ARCHITECTURES
    return [f"{a}.{b}" for a, b in chosen[:-1]] + ["{}.{}+PTX".format(*chosen[-1])]


def _output(command: list[str]) -> str:
    """Output of a command, on stdout and stderr, whether it fails or not."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
