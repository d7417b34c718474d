"""Prints the most memory, in bytes, held by a process that loads a codec, compresses the 768x512 photograph and decompresses it.

python benchmarks/peak_memory.py MODEL THREADS, with tests/ on PYTHONPATH for the photograph. MODEL is as `dkic.load` takes it.
The figure includes Python, torch and the photograph. It is VmHWM, because getrusage's ru_maxrss starts at the parent's memory
when it started this process.
"""

import sys
from pathlib import Path

import torch
from photographs import photograph

import dkic
from dkic.memory import keep_freed_memory

if __name__ == "__main__":
    keep_freed_memory()  # as the `dkic` command does
    torch.set_num_threads(int(sys.argv[2]))
    codec = dkic.load(sys.argv[1])
    codec.decompress(codec.compress(photograph()), "numpy")
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(line.split()[1]) * 1024)
