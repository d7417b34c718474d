"""Short runs of the fuzzers, which must find planted faults. `python3 tests/fuzz` runs them for longer."""

import mmap
import subprocess
import time
from pathlib import Path

import decoder_target
import pytest
from coder_target import CSRC, build_coder
from decoder_target import GOLDEN, DecoderTarget, Finding

from dkic.errors import FormatError

RANS = CSRC / "rans" / "rans.cpp"


@pytest.fixture(scope="module")
def target():
    return DecoderTarget(seed=7)


def run(program: Path, seconds: int) -> subprocess.CompletedProcess:
    return subprocess.run([program, str(seconds), "3"], cwd=program.parent, capture_output=True, text=True)


def test_the_coder(tmp_path):
    done = run(build_coder(tmp_path, libfuzzer=False), 3)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 10


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("if (next > end_) throw Damaged", "if (next > end_ + 1000) throw Damaged", "heap-buffer-overflow"),
        ("if (states_[lane] != state_min) throw", "if (states_[lane] < state_min) throw", "an accepted stream is the one"),
    ],
    ids=["reads behind the stream", "accepts another end"],
)
def test_a_fault_of_the_coder_is_found(tmp_path, right, wrong, said):
    source = RANS.read_text()
    assert source.count(right) == 1
    (tmp_path / "rans.cpp").write_text(source.replace(right, wrong))
    program = build_coder(tmp_path, tmp_path / "rans.cpp", libfuzzer=False)
    done = run(program, 600)  # it takes a part of a second, but the machine may be busy
    assert done.returncode != 0 and said in done.stderr
    again = subprocess.run([program, "last-input"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode != 0 and said in again.stderr


def test_the_decoder(target):
    for number in range(300):
        target.run(target.make(number))
    assert {"decoded", "salvaged", "refused by the decoder", "refused by the container"} <= set(target.outcomes)


def test_a_file_is_reproducible_from_its_seed(target):
    again = DecoderTarget(seed=7)
    assert [target.make(number) for number in range(40)] == [again.make(number) for number in range(40)]


def slow(file, weights):
    end = time.process_time() + 2.1
    while time.process_time() < end:
        pass


def large(file, weights):
    with mmap.mmap(-1, decoder_target.FIXED_BYTES + 2**25) as memory:  # not what other tests have freed
        memory[:: mmap.PAGESIZE] = b"x" * -(-len(memory) // mmap.PAGESIZE)


def two_lines(file, weights):
    raise FormatError("image section: \n")


@pytest.mark.parametrize(("decode", "said"), [(slow, "s a KB"), (large, "bytes of memory"), (two_lines, "not one sentence")])
def test_a_fault_of_the_decoder_is_found(target, monkeypatch, decode, said):
    if decode is large and decoder_target.memory(reset=True) == 0:
        pytest.skip("this system does not tell the most memory that a process has held")
    monkeypatch.setattr(decoder_target, "decode_latent", decode)
    with pytest.raises(Finding, match=said):
        target.run((GOLDEN / "one_pixel.dkic").read_bytes())
