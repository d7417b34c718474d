"""The codec at 768x512: `paper` compared with CompressAI's Elic2022Official, and `small`; pixels in memory to bytes, and back.

`paper` ships without weights, so it is timed with seeded initial ones (whole_codecs.py), and so is its peer. The time of
networks does not depend on weights. The time of entropy coding depends slightly on the number of bits, which is not that of a
trained model: every row reports its bytes. `small` has the shipped weights, and is also timed with its networks on a GPU if
available. Files, start-up and the check that encoder and decoder have equal y_hat are not timed.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from devices import ON, devices
from photographs import photograph
from whole_codecs import Elic, Ours, save_untrained

HERE = Path(__file__).resolve().parent
ROUNDS = {"Elic2022Official": 3, "paper": 5, "small": 15}


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("paper") / "paper-untrained.safetensors"
    save_untrained("paper", path)
    return path


@cache
def elic() -> Elic:
    return Elic()


@cache
def checked(model: str | Path, device: str = "cpu") -> Ours:
    """dkic's codec, after a check that its decoder gets the encoder's y_hat."""
    codec = Ours(model, device)
    codec.codec.compress(photograph(), verify=True)
    return codec


def peak_memory(model: str | Path) -> int:
    """Peak memory of a new process (peak_memory.py), in bytes."""
    paths = [str(HERE.parent / "tests"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(HERE / "peak_memory.py"), str(model), str(torch.get_num_threads())]
    child = subprocess.run(command, env=os.environ | {"PYTHONPATH": ":".join(paths)}, stdout=subprocess.PIPE, check=True)
    return int(child.stdout)


@pytest.mark.parametrize(
    "preset, implementation", [("paper", "Elic2022Official"), ("paper", "dkic"), ("small", "dkic")]
)  # the peer first: see conftest.py
@pytest.mark.parametrize("device", devices("cuda"))
@pytest.mark.parametrize("work", ["encode", "decode"])
def test_codec(preset, implementation, work, device, paper, measure, benchmark):
    if device == "cuda" and preset != "small":
        pytest.skip("only small is timed on a GPU")
    model = paper if preset == "paper" else preset
    codec = checked(model, device) if implementation == "dkic" else elic()
    pixels = photograph()
    coded = codec.compress(pixels)
    decoded = codec.decompress(coded)
    assert decoded.shape == pixels.shape and decoded.dtype == pixels.dtype
    benchmark.extra_info["bytes"] = codec.bytes_of(coded)
    if implementation == "dkic" and work == "decode" and device == "cpu":
        benchmark.extra_info["peak_memory"] = peak_memory(model)
    call = (lambda: codec.compress(pixels)) if work == "encode" else (lambda: codec.decompress(coded))
    rounds = ROUNDS.get(implementation) or ROUNDS[preset]
    name = f"codec {preset}{', untrained,' if preset == 'paper' else ''} {work}, 768x512{ON[device]}"
    measure(name, implementation, call, rounds, device=device, host_clock=True)
