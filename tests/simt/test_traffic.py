"""The emulator's counts of requests, bytes, sectors and lines equal counts by hand."""

import subprocess
from pathlib import Path

import pytest
from simt.compilers import SIMT, compile_cpp, needs_emulator
from simt.traffic_counts import Counts, parse

pytestmark = needs_emulator

# Requests, bytes, sectors, lines, distinct sectors per block and in total, for two blocks of two warps.
EXPECTED = {
    "floats_side_by_side": {("a", "load"): (4, 512, 16, 4, 16, 16)},
    "one_float_further": {("a", "load"): (4, 512, 20, 8, 18, 17)},  # a warp's last is the next warp's first
    "every_eighth": {("a", "load"): (4, 512, 128, 32, 128, 128)},
    "one_for_all": {("a", "load"): (4, 512, 4, 4, 2, 1)},
    "vectors": {("a", "store"): (4, 2048, 64, 16, 64, 64)},
    "doubles": {("b", "load"): (4, 1024, 32, 8, 32, 16)},
    "atomics": {("a", "atomic"): (4, 512, 4, 4, 2, 1)},
    "one_half_of_a_warp": {("a", "load"): (4, 256, 8, 4, 8, 8)},
    # 31 lanes a warp: 21 of them once, 10 of them twice; all four sectors, whichever lanes are missing
    "loops_of_several_lengths": {("a", "load"): (8, 4 * 4 * 31, 32, 8, 32, 16)},
    "skipped_before_a_barrier": {("a", "load"): (16, 4 * 4 * 112, 64, 16, 64, 32)},
    "skipped_before_a_shuffle": {("a", "load"): (16, 4 * 4 * 112, 64, 16, 64, 32)},
    "two_tensors_in_one_line": {("a", "store"): (8, 512, 32, 8, 32, 16), ("b", "store"): (4, 512, 32, 8, 32, 16)},
    "shared_memory": {("a", "store"): (2, 8, 2, 2, 2, 1)},
}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "counted_accesses.cpp", tmp_path_factory.mktemp("traffic") / "counted_accesses")


def run(program: Path, kernel: str, order: int) -> subprocess.CompletedProcess:
    return subprocess.run([program, kernel, str(order)], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("kernel", EXPECTED)
def test_counts(program, kernel, order):
    done = run(program, kernel, order)
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout) == {(kernel, *key): Counts(*counts) for key, counts in EXPECTED[kernel].items()}


def test_memory_of_no_named_tensor_is_an_error(program):
    done = run(program, "unnamed", 0)
    assert done.returncode == 1 and "thread 5, line " in done.stderr and "an access to no named tensor" in done.stderr


def test_efficiency():
    assert Counts(1, bytes=48, sectors=2, lines=1, block_sectors=2, all_sectors=2).efficiency == 0.75
    assert Counts(1, 2, 3, 4, 5, 6) + Counts(10, 20, 30, 40, 50, 60) == Counts(11, 22, 33, 44, 55, 66)
