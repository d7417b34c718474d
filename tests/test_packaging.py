"""What is installed, and how the build backend judges the machine it builds on."""

import importlib.metadata
import inspect
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import dkic

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def backend():
    sys.path.insert(0, str(ROOT / "csrc" / "build_support"))
    try:
        import build_backend
    finally:
        sys.path.remove(str(ROOT / "csrc" / "build_support"))
    return build_backend


@pytest.fixture
def environment(tmp_path) -> Path:
    """A fresh virtual environment without torch."""
    venv.create(tmp_path / "venv", with_pip=False)
    return tmp_path / "venv"


def install_torch(environment: Path, version: str, folder: Path | None = None) -> Path:
    """What the build looks at in a torch: the package and its version.py. Returns the package's folder."""
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


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_version_is_one():
    assert importlib.metadata.version("dkic") == dkic.__version__


def test_importing_dkic_imports_neither_torch_nor_native_code():
    child = run("import dkic, sys; print([m for m in ('torch', 'dkic._native') if m in sys.modules])")
    assert (child.returncode, child.stdout.strip()) == (0, "[]"), child.stderr


def test_the_codec_is_fetched_at_its_first_use():
    from dkic.coding import codec

    assert dkic.load is codec.load and dkic.Codec is codec.Codec
    assert {"load", "Codec", "__version__"} <= set(dir(dkic))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dkic' has no attribute 'lode'"):
        _ = dkic.lode


def test_type_checkers_are_told_that_there_are_types():
    assert (Path(dkic.__file__).parent / "py.typed").is_file()


def test_public_ops_and_layers_are_annotated():
    """mypy does not ask it of all of dkic.ops."""
    import dkic.nn
    import dkic.ops

    public = [getattr(module, name) for module in (dkic.ops, dkic.nn) for name in module.__all__]
    functions = [f for f in public if inspect.isfunction(f)]
    methods = [getattr(cls, name, None) for cls in public if inspect.isclass(cls) for name in ("__init__", "forward")]
    functions += [method for method in methods if inspect.isfunction(method) and method.__module__.startswith("dkic.")]
    assert {"ldcn", "deform_conv2d", "gaussian_likelihood", "forward"} <= {f.__name__ for f in functions}
    for function in functions:
        names = {*inspect.signature(function).parameters, "return"} - {"self"}
        assert names <= set(inspect.get_annotations(function)), function.__qualname__


def test_the_command_is_dkic():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="dkic")
    assert script.value == "dkic.cli:main" and callable(script.load())


def test_no_torch_in_the_environment(backend, environment):
    assert backend.installed_torch(python(environment)) is None


def test_torch_is_found_from_within_pips_isolation(backend, environment, monkeypatch, tmp_path):
    package = install_torch(environment, "2.14.1+cu130")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "throw-away"))
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    assert backend.installed_torch(python(environment)) == ("2.14.1+cu130", package)


def test_a_torch_in_the_working_directory_does_not_count(backend, environment, monkeypatch, tmp_path):
    install_torch(environment, "2.14.1", folder=tmp_path / "elsewhere").rename(tmp_path / "torch")
    monkeypatch.chdir(tmp_path)
    assert backend.installed_torch(python(environment)) is None


def test_an_editable_torch_is_found(backend, environment, tmp_path):
    package = install_torch(environment, "2.12.0a0+git1234567", folder=tmp_path / "pytorch")
    assert backend.installed_torch(python(environment)) == ("2.12.0a0+git1234567", package)


@pytest.mark.parametrize("installed", [True, False])
def test_torch_is_a_build_requirement_only_where_there_is_none(backend, monkeypatch, installed, tmp_path):
    torch = backend.Torch("2.10.0", tmp_path) if installed else None
    monkeypatch.setattr(backend, "installed_torch", lambda: torch)
    monkeypatch.chdir(ROOT)
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        assert [r for r in hook() if r.startswith("torch")] == ([] if installed else ["torch>=2.10"])


@pytest.mark.parametrize("version", ["2.9.1", "1.13.1+cpu"])
def test_an_old_torch_is_refused(backend, version, tmp_path):
    with pytest.raises(SystemExit, match=rf"needs torch 2.10 or later and .* has torch {re.escape(version)}"):
        backend.checked(backend.Torch(version, tmp_path))


@pytest.mark.parametrize("version", ["2.10.0", "2.11.0.dev20260101+cu130", "3.0.0"])
def test_a_recent_torch_is_accepted(backend, version, tmp_path):
    assert backend.checked(backend.Torch(version, tmp_path)).version == version


def test_without_a_compiler_the_sentence_says_what_to_install(backend, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SystemExit, match="found none on PATH: install g"):
        backend.cxx_compiler()


def test_a_compiler_is_found_on_path_and_cxx_overrides_it(backend, monkeypatch, tmp_path):
    for name in ("clang++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert backend.cxx_compiler() == ["clang++"]
    monkeypatch.setenv("CXX", "mine -m64")
    assert backend.cxx_compiler() == ["mine", "-m64"]
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(SystemExit, match="CXX=/nonexistent/g\\+\\+ is not a program"):
        backend.cxx_compiler()
