"""The Python examples in docs/ run as they stand, each page's in order and in an empty folder."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["dcn.md", "onnx.md", "pillow.md"]


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    names = {"__name__": page}
    for example in examples:
        exec(compile(example, page, "exec"), names)
