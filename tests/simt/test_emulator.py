"""The CUDA emulator runs kernels correctly and detects each kind of fault."""

import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from simt.compilers import SANITIZERS, SIMT, compile_cpp, needs_emulator

pytestmark = needs_emulator

ORDERS = {"forward": 0, "reverse": 1, "shuffled": 2}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "planted_faults.cpp", tmp_path_factory.mktemp("emulator") / "kernels")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "planted_faults.cpp", tmp_path_factory.mktemp("emulator") / "sanitized", *SANITIZERS)


def run(program: Path, kernel: str, order: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1"}
    command = [program, kernel, str(ORDERS[order])]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def written(program: Path, kernel: str, order: str) -> list[float]:
    done = run(program, kernel, order)
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


SUMS = [496.0] * 32 + [1520.0] * 32
RIGHT = {
    "reverse": [63.0 - i for i in range(64)],
    "sum_of_a_warp": SUMS,
    "sum_downwards": SUMS,
    "segments": [float(i // 8 * 8 + 2) for i in range(64)],
    "ballots": [1.0] * 64,
    "half_a_warp": [float(i ^ 1) for i in range(64)],
    "vectors": [2.0] * 64,
    "atomics": [32.0, 32.0, *[0.0] * 61, 2016.0],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", RIGHT)
def test_runs_a_right_kernel(kernels, sanitized, kernel, order):
    assert written(kernels, kernel, order) == RIGHT[kernel]
    assert written(sanitized, kernel, order) == RIGHT[kernel]


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_shows_as_nan(kernels, order):
    values = written(kernels, "missing_barrier", order)
    assert any(map(math.isnan, values)) and values != RIGHT["reverse"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_shuffle_from_outside_the_mask_gives_nan(kernels, order):
    values = written(kernels, "source_outside_the_mask", order)
    assert [math.isnan(v) for v in values] == ([True] * 16 + [False] * 16) * 2


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "kernel, message",
    [
        ("mask_without_the_lane", "whose mask leaves it out"),
        # depends on which thread arrives first
        ("masks_that_differ", "waits in another collective|names a lane that has ended"),
        ("lane_that_has_ended", "names a lane that has ended"),
        ("lane_that_never_comes", "deadlock: lanes of the collective's mask never arrive"),
        ("different_barriers", "threads of a block wait at different barriers"),
        ("misaligned_load", "an access of 16 bytes is not aligned to its size"),
        ("misaligned_store", "an access of 8 bytes is not aligned to its size"),
    ],
)
def test_reports_a_fault(kernels, kernel, message, order):
    done = run(kernels, kernel, order)
    assert done.returncode == 1 and re.search(message, done.stderr)
    assert done.stderr.startswith(f"{kernel}, block 0, thread ") and ", line " in done.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "kernel, message",
    [
        ("read_out_of_bounds", "heap-buffer-overflow"),
        ("beyond_shared", "heap-buffer-overflow"),
        ("stack_out_of_bounds", "out of bounds"),
    ],
)
def test_sanitizers_see_into_the_fibers(sanitized, kernel, message, order):
    done = run(sanitized, kernel, order)
    assert done.returncode != 0 and message in done.stderr
