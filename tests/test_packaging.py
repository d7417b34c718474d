"""The installed package: version, imports, command and types."""

import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dkic

ROOT = Path(__file__).resolve().parents[1]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_version_is_defined_once():
    assert importlib.metadata.version("dkic") == dkic.__version__


def test_importing_dkic_imports_neither_torch_nor_native_code():
    child = run("import dkic, sys; print([m for m in ('torch', 'dkic._native') if m in sys.modules])")
    assert (child.returncode, child.stdout.strip()) == (0, "[]"), child.stderr


def test_the_codec_is_imported_at_first_use():
    from dkic.coding import codec

    assert dkic.load is codec.load and dkic.Codec is codec.Codec
    assert {"load", "Codec", "__version__"} <= set(dir(dkic))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dkic' has no attribute 'lode'"):
        _ = dkic.lode


def test_the_package_has_a_py_typed_marker():
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


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["info", str(ROOT / "tests/golden/coarse.dkic")]])
def test_commands_that_need_no_network_load_no_pytorch(arguments):
    code = "import sys; from dkic.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "False", run.stdout + run.stderr
