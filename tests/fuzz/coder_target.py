"""Builds and runs the fuzzer of the coder in C++: rans_target.cpp."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC, GOLDEN = HERE.parents[1] / "csrc", HERE.parent / "golden"


def build_coder(out: Path, rans: Path = CSRC / "rans" / "rans.cpp", libfuzzer: bool | None = None) -> Path:
    """`out`/libfuzzer, which needs clang++ and is chosen where there is one, or `out`/standalone."""
    if libfuzzer is None:
        libfuzzer = shutil.which("clang++") is not None
    compiler = ["clang++"] if libfuzzer else os.environ.get("CXX", "g++").split()
    sanitizers = "-fsanitize=address,undefined" + (",fuzzer" if libfuzzer else "")
    sources = [HERE / "rans_target.cpp", rans, *([] if libfuzzer else [HERE / "standalone.cpp"])]
    program = out / ("libfuzzer" if libfuzzer else "standalone")
    flags = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", sanitizers, "-fno-sanitize-recover=all", f"-I{CSRC}"]
    subprocess.run([*compiler, *flags, *sources, "-o", program], check=True)
    return program


def fuzz_coder(out: Path, seconds: float, seed: int, hang_seconds: int) -> int:
    """Exit status of the fuzzer; not 0 where it found something, and the input is in `out`."""
    program = build_coder(out)
    arguments = [str(seconds), str(seed)]
    if program.name == "libfuzzer":
        (out / "corpus").mkdir(exist_ok=True)
        limits = [f"-timeout={hang_seconds}", "-rss_limit_mb=1024", "-max_len=4096", "-len_control=0"]
        # To libFuzzer 0 seconds are no limit, and seed 0 is any seed.
        span = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}"]
        arguments = [*span, *limits, "-verbosity=0", "-print_final_stats=1", "corpus", str(GOLDEN)]
    return subprocess.run([program, *arguments], cwd=out).returncode
