"""benchmarks/image_sizes.py: the search for a codec's setting, and the measurement of a program's memory."""

import shutil
import subprocess
from types import SimpleNamespace

import pytest

from benchmarks.image_sizes import most_memory_of, nearest_setting


@pytest.mark.parametrize("size, setting", [(0, 10), (149, 10), (251, 20), (249, 20), (10_000, 90)])
def test_the_setting_of_the_nearest_size(size, setting):
    codec = SimpleNamespace(encode=lambda pixels, setting: bytes(setting * 10 + 40))
    settings = range(10, 91, 10)
    assert nearest_setting(codec, settings, None, size) == setting


def test_a_programs_memory_is_measured():
    """dd holds a block; concurrent Python processes are not counted."""
    dd = shutil.which("dd")
    with most_memory_of(dd) as found:
        subprocess.run([dd, "if=/dev/zero", "of=/dev/null", "bs=100M", "count=20"], check=True, capture_output=True)
    assert 100 * 2**20 < found[0] < 120 * 2**20
