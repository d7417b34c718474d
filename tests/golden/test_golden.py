"""Files of earlier versions decode to the same symbols, and the same latents give the same bytes.

A failure means that this version reads or writes another format, or computes other means and scales, than the version that made
these files, so existing files can no longer be decoded. If that is not intended, fix the code. If it is intended, it is
another format: give it a new version in dkic/coding/container.py, or a new number in dkic.entropy.arithmetic.Arithmetic, keep
the code that reads the old one, and add golden files of the new one. Never recreate these files.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.latent_hash import latent_hash

from dkic.coding.container import DkicFile, Header, pack, unpack
from dkic.coding.latent import decode_latent, encode_latent
from dkic.entropy.arithmetic import Arithmetic
from dkic.models.weights_file import Weights, load_weights

FOLDER = Path(__file__).parent
EXPECTED = json.loads((FOLDER / "golden.json").read_text())
LATENTS = np.load(FOLDER / "latents.npz")
CHANGED = "the format or its arithmetic has changed: read what test_golden.py begins with"


def weights_name(name: str) -> str:
    return EXPECTED[name].get("weights", f"small-q{EXPECTED[name]['quality']}")


@pytest.fixture(scope="module")
def weights_of() -> dict[str, Weights]:
    return {name: load_weights(FOLDER / f"{weights_name(name)}.safetensors") for name in EXPECTED}


def latent(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    y, z_hat = (LATENTS.get(f"{name}.{part}") for part in ("y", "z_hat"))
    return torch.from_numpy(y).double() / 64, None if z_hat is None else torch.from_numpy(z_hat).double()


def test_at_least_six_golden_files_exist():
    assert len(EXPECTED) >= 6 and {path.stem for path in FOLDER.glob("*.dkic")} == set(EXPECTED)


def test_weights_have_the_recorded_hashes(weights_of):
    for name in EXPECTED:
        assert unpack((FOLDER / f"{name}.dkic").read_bytes()).header.model_hash == weights_of[name].hash, CHANGED


@pytest.mark.parametrize("name", EXPECTED)
def test_decoded(weights_of, name):
    data, expected = (FOLDER / f"{name}.dkic").read_bytes(), EXPECTED[name]
    file = unpack(data)
    assert len(data) == expected["bytes"] and file.header.arithmetic == Arithmetic.EXACT, CHANGED
    assert int.from_bytes(file.image[:4], "little") == expected["latents_crc32c"], CHANGED
    with torch.inference_mode():
        y_hat = decode_latent(file, weights_of[name])  # raises where the latents' checksum is wrong
    y, _ = latent(name)
    assert y_hat.shape == y.shape, CHANGED
    _, (size, _) = weights_of[name].quantization(file.header.quality, file.header.qstep)
    assert ((y_hat - y).abs() <= size / 2 + y.abs() * 2.0**-23).all(), CHANGED  # rounded, and carried by float32
    assert latent_hash(y_hat) == expected["y_hat"], CHANGED  # means, too, which no symbol depends on in the last pass


@pytest.mark.parametrize("name", EXPECTED)
def test_encoded(weights_of, name):
    data = (FOLDER / f"{name}.dkic").read_bytes()
    header = unpack(data).header
    with torch.inference_mode():
        payload = encode_latent(*latent(name), weights_of[name], header.quality, header.qstep)
    width, height, qstep = header.width, header.height, header.qstep
    again = Header(width, height, header.model_hash, header.quality, header.arithmetic, header.grayscale, qstep)
    assert pack(DkicFile(again, payload)) == data, CHANGED
