"""Layers of the code: imports of dkic's packages, where command line code is, and which headers include PyTorch."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import dkic

PACKAGE = Path(dkic.__file__).parent
CSRC = Path(__file__).resolve().parents[1] / "csrc"

# From the lowest layer up. Packages and modules of dkic import only from lower layers; "dkic" is dkic/__init__.py.
LAYERS = (
    ("dkic", "_native", "errors", "gaussian_scales", "memory", "progress", "streams"),
    ("cache", "output_file", "shipped_weights"),
    ("table_file",),
    ("allocation", "ops"),
    ("nn", "onnx"),
    ("quantized",),
    ("compressai", "entropy"),
    ("models", "losses"),
    ("hub", "entropy_onnx"),
    ("coding", "codec_onnx"),
    ("doctor", "pillow"),
    ("evaluation", "training"),
    ("demo", "rate_control"),
    ("cli",),
    ("__main__",),
)
UPWARD = {("dkic", "coding"): "dkic.load and dkic.Codec; their module is imported at their first use"}

# Other headers include these two, so that one build works with later versions of PyTorch.
TORCH_HEADERS = {"stable_abi.h", "cuda_guard.h"}


class Import(NamedTuple):
    source: str  # the file's path in dkic, without its suffix
    target: str  # a module, dotted
    line: int


def parts(path: Path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


@cache
def trees() -> dict[str, ast.Module]:
    return {parts(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str, tree: ast.Module) -> Iterator[Import]:
    """All imports of a file, also in functions and under TYPE_CHECKING, and calls of import_module with a literal."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                assert not level, f"dkic/{source}.py:{node.lineno}: imports are absolute"
                targets = [f"{module}.{alias.name}" for alias in names]
            case ast.Call(func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[name]):
                first = name.values[0] if isinstance(name, ast.JoinedStr) else name
                assert isinstance(first, ast.Constant), f"dkic/{source}.py:{node.lineno}: no name in quotes"
                targets = [first.value]
            case _:
                continue
        for target in targets:
            yield Import(source, target, node.lineno)


def layer_of(source: str) -> str:
    return "dkic" if source == "__init__" else source.split("/")[0]


def violations(source: str, tree: ast.Module) -> set[tuple[str, str]]:
    """(importing, imported) packages of imports that are not from a lower layer."""
    height = {package: i for i, layer in enumerate(LAYERS) for package in layer}
    here, found = layer_of(source), set()
    for _, target, _ in imports_of(source, tree):
        names = target.split(".")
        there = names[1] if len(names) > 1 and names[1] in height else "dkic"
        if names[0] == "dkic" and here != there and height[there] >= height[here]:
            found.add((here, there))
    return found


def command_line_code(source: str, tree: ast.Module) -> set[tuple[str, str]]:
    """(source, what) of click, tqdm, dkic.cli, print and what belongs to the process: its arguments, streams and end."""
    found = {target.split(".")[0] for _, target, _ in imports_of(source, tree)} & {"argparse", "click", "tqdm"}
    if any(target.startswith("dkic.cli") for _, target, _ in imports_of(source, tree)):
        found.add("dkic.cli")
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("print" | "input" | "breakpoint" as name)):
                found.add(name)
            case ast.Attribute(ast.Name("sys"), "argv" | "exit" | "stderr" | "stdin" | "stdout" as name):
                found.add(f"sys.{name}")
    return {(source, what) for what in found}


def includes_torch(text: str) -> bool:
    return bool(re.search(r'^\s*#\s*include\s*[<"](torch|ATen|c10)/', text, re.MULTILINE))


def test_every_package_has_a_layer():
    listed = [package for layer in LAYERS for package in layer]
    assert sorted(listed) == sorted({layer_of(source) for source in trees()})


def test_imports_are_from_lower_layers():
    assert set().union(*(violations(*file) for file in trees().items())) == set(UPWARD)


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("ops/ldcn", "from dkic.models import dkic", {("ops", "models")}),
        ("ops/ldcn", "def f():\n    import dkic.nn.dcnv3", {("ops", "nn")}),
        ("ops/ldcn", "if TYPE_CHECKING:\n    from dkic import nn, errors", {("ops", "nn")}),
        ("ops/backends", "importlib.import_module(f'dkic.coding.{name}')", {("ops", "coding")}),
        ("evaluation/measurement", "from dkic.training.run import run", {("evaluation", "training")}),
        (
            "errors",
            "from dkic.cache import cache_folder\nfrom dkic.streams import is_stream",
            {("errors", "cache"), ("errors", "streams")},
        ),
        ("models/dkic", "from dkic.ops import ldcn\nfrom dkic.models.drbg import DRBG\nfrom dkic import __version__", set()),
    ],
)
def test_an_import_from_a_higher_layer_is_found(source, text, expected):
    assert violations(source, ast.parse(text)) == expected


def test_command_line_code_is_in_cli():
    libraries = {source: tree for source, tree in trees().items() if layer_of(source) not in ("cli", "__main__")}
    assert set().union(*(command_line_code(*file) for file in libraries.items())) == set()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def f():\n    import click.core", "click"),
        ("from tqdm.auto import tqdm", "tqdm"),
        ("from dkic.cli.options import PATH", "dkic.cli"),
        ("from dkic import cli", "dkic.cli"),
        ("print('done')", "print"),
        ("tool(file=sys.stderr)", "sys.stderr"),
        ("sys.exit(1)", "sys.exit"),
    ],
)
def test_command_line_code_is_found(text, what):
    assert command_line_code("ops/ldcn", ast.parse(text)) == {("ops/ldcn", what)}


def test_two_headers_include_torch():
    files = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert {path.name for path in files if includes_torch(path.read_text())} == TORCH_HEADERS


@pytest.mark.parametrize("line", ["#include <torch/extension.h>", '  # include "ATen/ATen.h"', "#include <c10/util/Half.h>"])
def test_an_include_of_torch_is_found(line):
    assert includes_torch(f"#pragma once\n{line}\n") and not includes_torch(f"#pragma once\n// {line}\n")
