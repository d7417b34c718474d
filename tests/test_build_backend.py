"""The build backend: its requirements, and the environment that it finds."""

import re
import sys
import venv
from pathlib import Path

import build_backend
import build_environment
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(tmp_path) -> Path:
    """A fresh virtual environment without torch."""
    venv.create(tmp_path / "venv", with_pip=False)
    return tmp_path / "venv"


def install_torch(environment: Path, version: str, folder: Path | None = None) -> Path:
    """Creates the files of torch that the build reads: the package and its version.py. Returns the package's folder."""
    site = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    package = (folder or site) / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the build imports torch')\n")
    (package / "version.py").write_text(f"from typing import Optional\n__version__ = '{version}'\n")
    if folder:
        (site / "torch-editable.pth").write_text(f"{folder}\n")
    return package


def python(environment: Path) -> str:
    return str(environment / "bin" / "python")


def test_no_torch_in_the_environment(environment):
    assert build_environment.installed_torch(python(environment)) is None


def test_torch_is_found_in_pips_isolated_build(environment, monkeypatch, tmp_path):
    package = install_torch(environment, "2.14.1+cu130")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "throw-away"))
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert build_environment.installed_torch(python(environment)) == ("2.14.1+cu130", package)


def test_a_torch_in_the_working_directory_is_ignored(environment, monkeypatch, tmp_path):
    install_torch(environment, "2.14.1", folder=tmp_path / "elsewhere").rename(tmp_path / "torch")
    monkeypatch.chdir(tmp_path)
    assert build_environment.installed_torch(python(environment)) is None


def test_an_editable_torch_is_found(environment, tmp_path):
    package = install_torch(environment, "2.12.0a0+git1234567", folder=tmp_path / "pytorch")
    assert build_environment.installed_torch(python(environment)) == ("2.12.0a0+git1234567", package)


@pytest.mark.parametrize("installed", [True, False])
def test_torch_and_nvcc_are_build_requirements_only_where_they_are_missing(monkeypatch, installed, tmp_path):
    torch = build_environment.Torch("2.14.1", tmp_path) if installed else None
    monkeypatch.setattr(build_backend, "installed_torch", lambda: torch)
    monkeypatch.setattr(build_backend, "nvcc_requirements", lambda target: [f"nvcc for {target}"])
    monkeypatch.chdir(ROOT)
    for hook in (build_backend.get_requires_for_build_wheel, build_backend.get_requires_for_build_editable):
        requirements = [r for r in hook() if r.startswith(("torch", "nvcc"))]
        assert requirements == ([] if installed else ["torch>=2.10"]) + [f"nvcc for {torch}"]


@pytest.mark.parametrize("version", ["2.9.1", "1.13.1+cpu"])
def test_an_old_torch_is_refused(version, tmp_path):
    with pytest.raises(SystemExit, match=rf"needs torch 2.10 or later and .* has torch {re.escape(version)}"):
        build_environment.checked(build_environment.Torch(version, tmp_path))


@pytest.mark.parametrize("version", ["2.10.0", "2.11.0.dev20260101+cu130", "3.0.0"])
def test_a_recent_torch_is_accepted(version, tmp_path):
    assert build_environment.checked(build_environment.Torch(version, tmp_path)).version == version


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SystemExit, match="found none on PATH: install g"):
        build_environment.cxx_compiler()


def test_a_compiler_is_found_on_path_and_cxx_overrides_it(monkeypatch, tmp_path):
    for name in ("clang++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build_environment.cxx_compiler() == ["clang++"]
    monkeypatch.setenv("CXX", "mine -m64")
    assert build_environment.cxx_compiler() == ["mine", "-m64"]
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(SystemExit, match="CXX=/nonexistent/g\\+\\+ is not a program"):
        build_environment.cxx_compiler()
