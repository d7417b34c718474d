"""How benchmarks/picture_sizes.py finds a peer's setting, and a program's memory."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.picture_sizes import most_memory_of, nearest_setting


@pytest.mark.parametrize("size, setting", [(0, 10), (149, 10), (251, 20), (249, 20), (10_000, 90)])
def test_the_setting_of_the_nearest_size(size, setting):
    codec = SimpleNamespace(encode=lambda pixels, setting: bytes(setting * 10 + 40))
    settings = range(10, 91, 10)
    assert nearest_setting(codec, settings, None, size) == setting


def test_a_program_s_memory_is_seen():
    code = "import time; held = bytearray(100_000_000); time.sleep(0.3)"
    with most_memory_of(str(Path(sys.executable).resolve())) as found:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert 100_000_000 < found[0] < 200_000_000
