"""Error messages have the form `<input>: <what is wrong>; <what to do>`; see CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

DKIC = Path(__file__).resolve().parents[1] / "dkic"
CLASSES = {
    "ArgumentTypeError",
    "ArgumentValueError",
    "ClusterFailed",
    "DkicError",
    "FormatError",
    "TrainingFailed",
    "TypeError",
    "UsageError",
    "ValueError",
}
# Functions that raise a reason. Their callers prefix it with the input, and add what to do.
REASONS: dict[str, str] = {}
# `{}` stands for a value of an f-string.
INPUT = re.compile(r"(?!; )(?P<input>\S.*?): (?P<rest>.+)", re.DOTALL)
CAPITALIZED = re.compile(r"[A-Z][a-z]*[ ,;]")
REMEDY = re.compile(r"; |\bmust\b|^\{\}$|\(\{\}\)$")  # the last: the reason of the operating system or of a library


def template(node: ast.expr) -> str | None:
    """The text of a literal or an f-string; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def raised(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str, str, int]]:
    """Function, class, message and line of every raised literal."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.ClassDef)
        yield from raised(node, f"{function}.{node.name}".lstrip(".") if named else function)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = node.exc.func.attr if isinstance(node.exc.func, ast.Attribute) else getattr(node.exc.func, "id", "")
            message = template(node.exc.args[0])
            if kind in CLASSES and message is not None:
                yield function, kind, message, node.lineno


def faults(kind: str, message: str) -> list[str]:
    found = []
    match = INPUT.match(message)
    if match is None or "; " in match["input"]:
        found.append("no input before a colon")
    elif CAPITALIZED.match(match["rest"]):
        found.append("upper case after the colon")
    if message.endswith("."):
        found.append("a full stop")
    # The remedy for a damaged file is to get it again, which only some messages say.
    if kind != "FormatError" and not REMEDY.search(match["rest"] if match else message):
        found.append("nothing says what to do")
    return found


MESSAGES = [
    pytest.param(kind, message, id=f"{path.relative_to(DKIC)}:{line}")
    for path in sorted(DKIC.rglob("*.py"))
    for function, kind, message, line in raised(ast.parse(path.read_text(encoding="utf-8")))
    if f"{path.relative_to(DKIC).as_posix()}:{function}" not in REASONS
]


@pytest.mark.parametrize(("kind", "message"), MESSAGES)
def test_a_message_names_the_input_the_fault_and_the_remedy(kind, message):
    assert faults(kind, message) == []
