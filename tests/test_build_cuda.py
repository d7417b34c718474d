"""Whether CUDA kernels are built, with which nvcc and for which GPUs; on simulated machines of a few files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_cuda
import pytest
from build_environment import Torch, installed_torch


class Machine:
    """A torch of CUDA 13.0 with its runtime; no nvcc and no GPU yet."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        for name in ("DKIC_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", f"{folder}/bin")
        self.torch = Torch("2.14.1", folder / "site" / "torch")
        self.torch_cuda("'13.0'")
        self.runtime = self.file("site/nvidia/cu13/lib/libcudart.so.13")

    def file(self, path: str, text: str = "") -> Path:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)
        return self.folder / path

    def torch_cuda(self, version: str) -> None:
        self.file("site/torch/version.py", f"__version__ = '2.14.1'\ncuda: Optional[str] = {version}\nhip = None\n")

    def program(self, path: str, script: str) -> str:
        program = self.file(path, f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program)

    def packaged_nvcc(self, release: str = "13.0") -> str:
        """NVIDIA's Python packages, in a folder where Python looks for packages."""
        self.monkeypatch.setattr(sys, "path", [str(self.folder / "overlay")])
        return self.nvcc(release, "overlay/nvidia/cu13/bin")

    def nvcc(self, release: str = "13.0", folder: str = "bin") -> str:
        script = f"""case "$1" in
            --version) echo "Cuda compilation tools, release {release}, V{release}.88";;
            --list-gpu-arch) printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\ncompute_120\\n';;
            -dryrun) echo "#$ TOP={self.folder}/toolkit" >&2;;
        esac"""
        return self.program(f"{folder}/nvcc", script)

    def gpus(self, *capabilities: str) -> None:
        self.program("bin/nvidia-smi", "\n".join(f"echo {c}" for c in capabilities) or "exit 9")


@pytest.fixture
def no_toolkit_in_usr_local(monkeypatch):
    def which(name: str, path: str | None = None, search=shutil.which) -> str | None:
        return None if path == "/usr/local/cuda/bin" else search(name, path=path)

    monkeypatch.setattr(build_cuda.shutil, "which", which)


@pytest.fixture
def machine(tmp_path, monkeypatch, no_toolkit_in_usr_local):
    monkeypatch.setattr(sys, "path", [])
    return Machine(tmp_path, monkeypatch)


def found(machine: Machine):
    return build_cuda.cuda_to_build_with(machine.torch)


def test_nvcc_of_torchs_cuda_version_is_used(machine):
    nvcc = machine.nvcc()
    cuda = found(machine)
    assert cuda == ((nvcc, "13.0.88", None, ""), machine.runtime, ["7.5", "8.0", "8.6", "9.0+PTX"])
    assert cuda.record == {"architectures": cuda.architectures, "compiler": f"nvcc 13.0.88 ({nvcc})"}


def test_cuda_home_goes_before_path(machine):
    machine.nvcc("12.8")
    nvcc = machine.nvcc("13.2", "home/bin")
    machine.monkeypatch.setenv("CUDA_HOME", str(machine.folder / "home"))
    assert found(machine).nvcc.path == nvcc
    machine.monkeypatch.setenv("CUDA_HOME", str(machine.folder / "nowhere"))
    assert "no nvcc in CUDA_HOME" in found(machine).reason


NO_NVCC = "there was no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda"
CUDA_TORCH = "install a CUDA build of torch from https://pytorch.org/get-started"
EXTRAS = "cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]"
PACKAGES = f", or run `python3 -m pip install '{EXTRAS}==13.0.*'`"


@pytest.mark.parametrize(
    ("nvcc", "torch", "reason", "repair"),
    [
        (None, "'13.0'", NO_NVCC, "install the CUDA toolkit 13" + PACKAGES),
        (None, "'12.9'", NO_NVCC, "install the CUDA toolkit 12"),  # whose Python packages do not contain nvcc
        (
            "12.8",
            "'13.0'",
            "torch 2.14.1 goes with CUDA 13, and {} is of CUDA 12",
            "name a CUDA toolkit 13 in CUDA_HOME" + PACKAGES,
        ),
        (
            "?",
            "'13.0'",
            "torch 2.14.1 goes with CUDA 13, and {} does not print its version",
            "name a CUDA toolkit 13 in CUDA_HOME" + PACKAGES,
        ),
        ("13.0", "None", "torch 2.14.1 is built without CUDA", CUDA_TORCH),
    ],
)
def test_reasons_why_the_kernels_cannot_be_built(machine, nvcc, torch, reason, repair):
    path = machine.nvcc(nvcc) if nvcc else None
    machine.torch_cuda(torch)
    assert found(machine) == (reason.format(path), repair)
    machine.monkeypatch.setenv("DKIC_CUDA", "1")
    with pytest.raises(SystemExit) as stopped:
        found(machine)
    assert f"DKIC_CUDA=1 asks for dkic's CUDA kernels, but {reason.format(path)}: {repair}." in str(stopped.value)


@pytest.mark.parametrize(
    ("nvcc", "torch", "requirements"),
    [
        (None, "'13.0'", [f"{EXTRAS}==13.0.*"]),
        ("12.8", "'13.4'", [f"{EXTRAS}==13.4.*"]),
        ("13.2", "'13.0'", []),
        (None, "'12.9'", []),
        (None, "None", []),
    ],
)
def test_nvcc_is_a_build_requirement_where_no_toolkit_fits(machine, nvcc, torch, requirements):
    if nvcc:
        machine.nvcc(nvcc)
    machine.torch_cuda(torch)
    assert build_cuda.nvcc_requirements(machine.torch) == requirements
    machine.monkeypatch.setenv("DKIC_CUDA", "0")
    assert build_cuda.nvcc_requirements(machine.torch) == []


@pytest.mark.parametrize(("nvcc", "requirements"), [(None, [EXTRAS]), ("12.8", [EXTRAS]), ("13.0", [])])
def test_nvcc_for_a_torch_that_pip_will_install(machine, nvcc, requirements):
    """Without a version: pip takes the one that torch requires."""
    if nvcc:
        machine.nvcc(nvcc)
    assert build_cuda.nvcc_requirements(None) == requirements


def test_nvcc_of_python_packages_is_used_where_no_toolkit_fits(machine):
    nvcc = machine.packaged_nvcc()
    cuda = found(machine)
    assert (cuda.nvcc.path, cuda.nvcc.packages) == (nvcc, machine.folder / "overlay/nvidia/cu13")
    assert cuda.record["compiler"] == f"nvcc 13.0.88 from NVIDIA's Python packages, because {NO_NVCC}"
    assert build_cuda.nvcc_requirements(machine.torch) == []
    other = machine.nvcc("12.8")
    assert found(machine).nvcc.path == nvcc and f"{other} is of CUDA 12" in found(machine).nvcc.origin
    other = machine.nvcc("13.2")
    assert found(machine).nvcc.path == other


def test_dkic_cuda_0_leaves_the_kernels_out(machine):
    machine.nvcc()
    machine.monkeypatch.setenv("DKIC_CUDA", "0")
    assert found(machine) == ("DKIC_CUDA=0 left them out", "unset it")
    machine.monkeypatch.setenv("DKIC_CUDA", "yes")
    with pytest.raises(SystemExit, match="DKIC_CUDA must be 0 .*, 1 .* or unset, and is 'yes'"):
        found(machine)


@pytest.mark.parametrize(
    "path",
    ["site/nvidia/cuda_runtime/lib/libcudart.so.13", "site/torch/lib/libcudart-1b2c3d4e.so.13", "toolkit/lib64/libcudart.so.13"],
)
def test_the_runtime_is_torch_s_or_else_the_toolkit_s(machine, path):
    machine.nvcc()
    other = machine.file(path)
    assert found(machine).cudart == machine.runtime
    machine.runtime.unlink()
    assert found(machine).cudart == other
    other.unlink()
    assert found(machine).repair == "install nvidia-cuda-runtime"


@pytest.mark.parametrize(
    ("asked", "gpus", "architectures"),
    [
        (None, ["8.6"], ["8.6+PTX"]),
        (None, ["9.0", "8.0", "9.0"], ["8.0", "9.0+PTX"]),
        (None, ["12.1"], ["12.0+PTX"]),  # later than nvcc knows
        (None, ["6.1"], ["7.5", "8.0", "8.6", "9.0+PTX"]),  # earlier
        (None, ["6.1", "8.6"], ["8.6+PTX"]),
        (None, [], ["7.5", "8.0", "8.6", "9.0+PTX"]),  # nvidia-smi without a driver
        ("8.6", ["9.0"], ["8.6"]),
        ("8.0;8.6 9.0a+PTX", [], ["8.0", "8.6", "9.0a+PTX"]),
        (" ", ["8.9", "8.0"], ["8.0", "8.6+PTX"]),  # between those that nvcc knows
    ],
)
def test_architectures_to_build_for(machine, asked, gpus, architectures):
    machine.nvcc()
    machine.gpus(*gpus)
    if asked:
        machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    assert found(machine).architectures == architectures


def test_an_architecture_by_name_is_refused(machine):
    machine.nvcc()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 Hopper")
    with pytest.raises(SystemExit, match=r"must list numbers like `8.6 9.0\+PTX`, and holds 'Hopper'"):
        found(machine)


def test_flags_of_nvcc():
    cuda = build_cuda.Cuda(build_cuda.Nvcc("nvcc", "13.0.88"), Path("libcudart.so.13"), ["8.6", "9.0a+PTX"])
    assert cuda.flags == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]


def test_nvcc_of_python_packages_compiles(tmp_path, monkeypatch, no_toolkit_in_usr_local):
    """With the real packages and no toolkit: headers of csrc/cuda, device code, and a link with torch's CUDA runtime."""
    torch = installed_torch()
    if build_cuda.cuda_of(torch) is None:
        pytest.skip(f"torch {torch.version} is built without CUDA")
    for tool in ("g++", "gcc", "as", "ld", "sh", "rm", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("DKIC_CUDA", "1")
    cuda = build_cuda.cuda_to_build_with(torch)
    assert cuda.nvcc.packages

    sources = Path(__file__).resolve().parents[1] / "csrc" / "cuda"
    headers = {h for path in sources.iterdir() for h in re.findall(r"#include <(cuda\w*\.h)>", path.read_text())}
    assert "cuda_fp16.h" in headers
    (tmp_path / "tiny.cu").write_text(
        "".join(f"#include <{header}>\n" for header in sorted(headers))
        + "__global__ void twice(__half* y) { *y = __hadd(*y, *y); }\n"
        + 'extern "C" int launch(__half* y) { twice<<<1, 1>>>(y); return cudaGetLastError(); }\n'
    )
    for command in (
        [cuda.nvcc.path, "-ccbin=g++", *cuda.flags, "-Xcompiler=-fPIC", "-c", "tiny.cu", "-o", "tiny.o"],
        ["g++", "-shared", "tiny.o", "-o", "tiny.so", "-Wl,--no-undefined", str(cuda.cudart)],
    ):
        child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
        assert child.returncode == 0, child.stderr
    assert b"launch" in (tmp_path / "tiny.so").read_bytes()
