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
# Functions that raise a reason, which a caller completes.
REASONS = {
    "coding/cicp.py:Cicp.profile": "`pil_pixels` adds the image and what to do",
    "coding/color_profile.py:_adapted_colorants": "a damaged profile, whose note names the image",
    "coding/image_color.py:_refuse_hdr": "`pil_pixels` adds the image and what to do",
    "evaluation/inception.py:_load": "caught in the same function",
    "losses/lpips_backbone.py:_read": "caught in the same function",
    "losses/lpips_backbone.py:convert": "caught in the same function",
    "losses/lpips_backbone.py:_converted": "`convert` adds the file and what to do",
    "training/checkpoint.py:load_checkpoint": "caught in the same function",
    "training/checkpoint.py:_restore_parts": "caught in the same function",
}
REASON_FILES = {
    "training/recipe.py": "pydantic calls the validators; `strict_model` adds the key",
}
# CompressAI's texts, which code that catches them may compare.
COMPRESSAI = "compressai/entropy_models.py"
# `{}` stands for a value of an f-string.
INPUT = re.compile(r"(?!; )(?P<input>\S.*?): (?P<rest>.+)", re.DOTALL)
EXTENDED = re.compile(r"\{\}(; |\{\}| \()")  # another error's message, with more after it
CAPITALIZED = re.compile(r"[A-Z][a-z]*[ ,;]")
# "must ..." and "needs ..." state what would be right. "(...)" and a value at the end are the reason that another program,
# library or function gives.
REMEDY = re.compile(r"; |\b(must|needs?|give)\b|\(\{\}\)$|(^|failed: )\{\}+$")


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
    if EXTENDED.match(message):
        return []
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


def exempt(file: str, function: str) -> bool:
    return file == COMPRESSAI or file in REASON_FILES or f"{file}:{function}" in REASONS


MESSAGES = [
    pytest.param(kind, message, id=f"{path.relative_to(DKIC)}:{line}")
    for path in sorted(DKIC.rglob("*.py"))
    for function, kind, message, line in raised(ast.parse(path.read_text(encoding="utf-8")))
    if not exempt(path.relative_to(DKIC).as_posix(), function)
]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("tile must be a multiple of 64, not {}", "no input before a colon"),
        ("the file is empty; get the file: it must be whole", "no input before a colon"),
        ("{}: The file is empty; get the whole file", "upper case after the colon"),
        ("{}: the file is empty; get the whole file.", "a full stop"),
        ("{}: the file is empty", "nothing says what to do"),
    ],
)
def test_a_fault_is_found(message, fault):
    assert faults("DkicError", message) == [fault]


@pytest.mark.parametrize(("kind", "message"), MESSAGES)
def test_a_message_names_the_input_the_fault_and_the_remedy(kind, message):
    assert faults(kind, message) == []
