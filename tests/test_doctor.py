"""dkic.doctor on a complete installation, and on installations with missing parts."""

import os
import subprocess
import sys

import pytest

import dkic
from dkic import doctor


def findings() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_every_line_is_a_name_and_a_value():
    lines = doctor.report().splitlines()
    assert [line.partition(": ")[0] for line in lines] == list(findings())
    assert all(line.partition(": ")[2] for line in lines)
    assert lines[0].startswith(f"dkic: {dkic.__version__} ")


def test_this_installation_has_no_fault():
    assert doctor.healthy(), doctor.report()


def test_backends_of_every_op_are_listed():
    from dkic.ops import backends

    found = findings()
    for op, names in backends.OPS.items():
        assert found[op].ok and [part.partition(":")[0] for part in found[op].value.split(" | ")] == list(names)
        assert found[op].value.startswith("cpu: runs")


def test_the_compiler_of_the_cuda_kernels_is_named(monkeypatch):
    from dkic.ops import backends

    compiler = "nvcc 13.0.88 from NVIDIA's Python packages, because there was no nvcc"
    monkeypatch.setattr(backends, "load_cuda", lambda: None)
    monkeypatch.setattr(backends, "cuda_build", lambda: {"architectures": ["8.6", "9.0+PTX"], "compiler": compiler})
    expected = f"built for GPUs of compute capability 8.6 9.0+PTX by {compiler}"
    assert findings()["CUDA kernels"] == doctor.Finding("CUDA kernels", expected)
    monkeypatch.setattr(backends, "cuda_build", dict)
    assert "unknown" in findings()["CUDA kernels"].value


def test_missing_parts_are_named_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path)
    monkeypatch.setitem(sys.modules, "dkic._native._rans", None)  # import raises ImportError
    found = findings()
    missing = [name for name, finding in found.items() if not finding.ok]
    assert missing == ["CPU kernels", "entropy coder", "models"]
    assert "libdkic_cpu.so is not built" in found["CPU kernels"].value
    assert all("pip install" in found[name].value for name in missing)
    assert not doctor.healthy()


def test_a_library_that_does_not_load_is_a_finding(monkeypatch, tmp_path):
    (tmp_path / "_native").mkdir()
    (tmp_path / "_native" / "libdkic_cpu.so").write_bytes(b"not a library")
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path)
    finding = findings()["CPU kernels"]
    assert not finding.ok and "libdkic_cpu.so" in finding.value and "\n" not in finding.value


def test_a_missing_torch_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = findings()
    assert not found["torch"].ok and "pip install 'torch>=2.10'" in found["torch"].value
    assert found["entropy coder"].ok  # needs no torch


@pytest.mark.parametrize(
    ("asked", "healthy", "said"),
    [("default", True, "use default instructions"), ("sse9", False, "unset DKIC_CPU_CAPABILITY")],
)
def test_the_requested_instruction_set_is_reported(asked, healthy, said):
    """In a new process, since the instruction set is selected once."""
    script = "from dkic import doctor; print(doctor.report()); raise SystemExit(not doctor.healthy())"
    environment = os.environ | {"DKIC_CPU_CAPABILITY": asked}
    child = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (child.returncode == 0) == healthy, child.stdout + child.stderr
    assert said in child.stdout
