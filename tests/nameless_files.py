"""For tests of what a killed process leaves: nothing, where the file system knows files without names."""

from pathlib import Path

import pytest

from dkic.output_file import _nameless


def need_nameless_files(folder: Path) -> None:
    """Skips the test where there are none."""
    file = _nameless(folder)
    if file is None:
        pytest.skip(f"the file system of {folder} has no files without names (O_TMPFILE)")
    file.close()
