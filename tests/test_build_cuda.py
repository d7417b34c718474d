"""Whether the build makes CUDA kernels, with what and for which GPUs; on machines made up of a few files."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(ROOT / "csrc" / "build_support"))
    try:
        import build_cuda
    finally:
        sys.path.remove(str(ROOT / "csrc" / "build_support"))
    return build_cuda


class Machine:
    """A torch of CUDA 13.0 with its runtime; no nvcc and no GPU yet."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        for name in ("DKIC_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", f"{folder}/bin")
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
def machine(tmp_path, monkeypatch, build):
    which = build.shutil.which

    def not_in_usr_local(name: str, path: str | None = None) -> str | None:
        return None if path == "/usr/local/cuda/bin" else which(name, path=path)

    monkeypatch.setattr(build.shutil, "which", not_in_usr_local)
    return Machine(tmp_path, monkeypatch)


def found(build, machine: Machine):
    return build.cuda_to_build_with(build.Torch("2.14.1", machine.folder / "site" / "torch"))


def test_with_nvcc_and_a_torch_of_its_cuda(build, machine):
    nvcc = machine.nvcc()
    assert found(build, machine) == (nvcc, machine.runtime, ["7.5", "8.0", "8.6", "9.0+PTX"])


def test_cuda_home_goes_before_path(build, machine):
    machine.nvcc("12.8")
    nvcc = machine.nvcc("13.2", "home/bin")
    machine.monkeypatch.setenv("CUDA_HOME", str(machine.folder / "home"))
    assert found(build, machine).nvcc == nvcc
    machine.monkeypatch.setenv("CUDA_HOME", str(machine.folder / "nowhere"))
    assert "no nvcc in CUDA_HOME" in found(build, machine).reason


OTHER_HOME = "name a CUDA toolkit 13 in CUDA_HOME"
CUDA_TORCH = "install a CUDA build of torch, as https://pytorch.org/get-started tells"


@pytest.mark.parametrize(
    ("nvcc", "torch", "reason", "repair"),
    [
        (None, "'13.0'", "there was no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda", "install the CUDA toolkit 13"),
        ("12.8", "'13.0'", "torch 2.14.1 goes with CUDA 13, and {} is of CUDA 12", OTHER_HOME),
        ("?", "'13.0'", "torch 2.14.1 goes with CUDA 13, and {} does not tell its version", OTHER_HOME),
        ("13.0", "None", "torch 2.14.1 is built without CUDA", CUDA_TORCH),
    ],
)
def test_why_there_can_be_none(build, machine, nvcc, torch, reason, repair):
    path = machine.nvcc(nvcc) if nvcc else None
    machine.torch_cuda(torch)
    assert found(build, machine) == (reason.format(path), repair)
    machine.monkeypatch.setenv("DKIC_CUDA", "1")
    with pytest.raises(SystemExit) as stopped:
        found(build, machine)
    assert f"DKIC_CUDA=1 asks for dkic's CUDA kernels, but {reason.format(path)}: {repair}." in str(stopped.value)


def test_they_can_be_left_out(build, machine):
    machine.nvcc()
    machine.monkeypatch.setenv("DKIC_CUDA", "0")
    assert found(build, machine) == ("DKIC_CUDA=0 left them out", "unset it")
    machine.monkeypatch.setenv("DKIC_CUDA", "yes")
    with pytest.raises(SystemExit, match="DKIC_CUDA must be 0 .*, 1 .* or unset, and is 'yes'"):
        found(build, machine)


@pytest.mark.parametrize(
    "path",
    ["site/nvidia/cuda_runtime/lib/libcudart.so.13", "site/torch/lib/libcudart-1b2c3d4e.so.13", "toolkit/lib64/libcudart.so.13"],
)
def test_the_runtime_is_torch_s_or_else_the_toolkit_s(build, machine, path):
    machine.nvcc()
    other = machine.file(path)
    assert found(build, machine).cudart == machine.runtime
    machine.runtime.unlink()
    assert found(build, machine).cudart == other
    other.unlink()
    assert found(build, machine).repair == "install nvidia-cuda-runtime"


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
def test_for_which_gpus(build, machine, asked, gpus, architectures):
    machine.nvcc()
    machine.gpus(*gpus)
    if asked:
        machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    assert found(build, machine).architectures == architectures


def test_an_architecture_by_name_is_refused(build, machine):
    machine.nvcc()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 Hopper")
    with pytest.raises(SystemExit, match=r"must list numbers like `8.6 9.0\+PTX`, and holds 'Hopper'"):
        found(build, machine)


def test_flags_of_nvcc(build):
    cuda = build.Cuda("nvcc", Path("libcudart.so.13"), ["8.6", "9.0a+PTX"])
    assert cuda.flags == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]
