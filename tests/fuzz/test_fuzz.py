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


# Conditions of rans.cpp, faults in their place, and what the fuzzer then says.
FAULTS = {
    "reads behind the stream": ("next > end_", "next > end_ + 1000", "heap-buffer-overflow"),
    "accepts another end": ("states_[lane] != state_min", "states_[lane] < state_min", "an accepted stream is the one"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """The coder with all faults; the environment variable FAULT is the number of the active one."""
    folder = tmp_path_factory.mktemp("faulty")
    source = '#include <cstdlib>\nstatic const int fault = std::atoi(std::getenv("FAULT"));\n' + RANS.read_text()
    for number, (right, wrong, _) in enumerate(FAULTS.values()):
        assert source.count(f"if ({right}) throw") == 1
        source = source.replace(f"if ({right}) throw", f"if (fault == {number} ? {wrong} : {right}) throw")
    (folder / "rans.cpp").write_text(source)
    return build_coder(folder, folder / "rans.cpp", libfuzzer=False)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_coder_is_found(faulty, name, monkeypatch):
    monkeypatch.setenv("FAULT", str(list(FAULTS).index(name)))
    said = FAULTS[name][2]
    done = run(faulty, 600)  # it takes a part of a second, but the machine may be busy
    assert done.returncode != 0 and said in done.stderr
    again = subprocess.run([faulty, "last-input"], cwd=faulty.parent, capture_output=True, text=True)
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
