"""tests/conftest.py: in CI a skip fails unless its reason is allowed, for every kind of skip."""

from pathlib import Path

import pytest
from ops.python_process import python

SKIPS = {
    "mark": '@pytest.mark.skipif(True, reason="REASON")\ndef test_a():\n    pass',
    "call": 'def test_a():\n    pytest.skip("REASON")',
    "fixture": '@pytest.fixture\ndef need():\n    pytest.skip("REASON")\n\ndef test_a(need):\n    pass',
    "module": 'pytest.skip("REASON", allow_module_level=True)',
    "import": 'pytest.importorskip("no_such_module", reason="REASON")',
}


def run(folder: Path, text: str, ci: str):
    (folder / "test_it.py").write_text(f"import pytest\n\n{text}\n\ndef test_b():\n    pass\n")
    arguments = ("-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(folder), "-rA", "test_it.py")
    return python(*arguments, cwd=folder, CI=ci)


@pytest.mark.parametrize("how", SKIPS)
def test_a_skip_fails_in_ci(tmp_path, how):
    found = run(tmp_path, SKIPS[how].replace("REASON", "there is no chromium"), "true")
    assert found.returncode != 0 and "test_it.py" in found.stdout
    assert "skipped in CI (there is no chromium); install what it needs" in found.stdout


def test_a_skip_is_a_skip_outside_ci(tmp_path):
    found = run(tmp_path, SKIPS["call"].replace("REASON", "there is no chromium"), "")
    assert found.returncode == 0 and "1 passed, 1 skipped" in found.stdout


def test_allowed_skips_and_expected_failures_are_none_in_ci(tmp_path):
    expected = "@pytest.mark.xfail(strict=True)\ndef test_c():\n    raise ValueError"
    text = SKIPS["mark"].replace("REASON", "torch 2.14.1 sees no CUDA GPU: check") + "\n\n" + expected
    found = run(tmp_path, text, "true")
    assert found.returncode == 0 and "1 passed, 1 skipped, 1 xfailed" in found.stdout
