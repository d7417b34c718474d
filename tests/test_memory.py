"""keep_freed_memory: large blocks are reused without page faults; in a new process."""

import subprocess
import sys

import pytest

PAGE = 4096
BLOCK = 2**26  # above glibc's largest threshold for giving blocks back

# Page faults that filling a block costs where blocks of its size were freed before.
FAULTS = f"""
import resource
import torch
from dkic.memory import keep_freed_memory

assert keep_freed_memory() if KEPT else True
fill = lambda: torch.empty({BLOCK}, dtype=torch.uint8).fill_(1) is None
for _ in range(24):  # until small blocks have found their places in between: up to 8 were seen
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: bool) -> int:
    code = FAULTS.replace("KEPT", str(kept))
    return int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)


def test_freed_blocks_are_reused():
    pages = BLOCK // PAGE
    if faults(kept=False) < pages / 2:
        pytest.skip("this system's pages are larger, or its allocator keeps large blocks by itself")
    assert faults(kept=True) < pages / 100
