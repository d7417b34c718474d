"""The codec on a GPU: files and symbols are the same as on every other machine. Skipped without a GPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import crop
from quantized.quantized_models import real

import dkic
from dkic.coding.container import unpack
from dkic.coding.latent import decode_latent, encode_latent
from dkic.errors import DkicError
from dkic.models.weights_file import save_weights
from dkic.ops import backends

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(backends.unavailable_reason("cuda") is not None, reason=str(backends.unavailable_reason("cuda"))),
]

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = [(512, 384), (100, 77), (1, 1)]


@pytest.fixture(scope="module")
def codecs():
    return {device: dkic.load(device=device) for device in ("cpu", "cuda")}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("coded", "decoded"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_cpu_and_gpu_decode_each_others_files(codecs, coded, decoded, size):
    pixels = crop(*size, top=0, left=0)
    data = codecs[coded].compress(pixels, verify=True)
    expected = codecs[coded].decompress(data, output="numpy").astype(int)
    actual = codecs[decoded].decompress(data, output="numpy").astype(int)
    # The file's checksum verifies the latents; the transform's rounding differs (TF32 on a GPU).
    assert np.abs(actual - expected).max() <= 3 and (actual != expected).mean() < 0.2
    assert np.abs(actual - pixels).mean() < 12


def test_tiles(codecs):
    pixels = crop(512, 384, top=0, left=0)
    data = codecs["cuda"].compress(pixels, tile=128)
    assert abs(len(data) - len(codecs["cuda"].compress(pixels))) < 0.01 * len(data)
    whole = codecs["cuda"].decompress(data, output="numpy").astype(int)
    assert np.abs(codecs["cuda"].decompress(data, output="numpy", tile=128) - whole).max() <= 3


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.dkic")))
def test_golden_files(name):
    about = json.loads((GOLDEN / "golden.json").read_text())[name]
    quality = about["quality"]
    path = GOLDEN / f"{about.get('weights', f'small-q{quality}')}.safetensors"
    weights = dkic.load(path, device="cuda").weights_of(quality)
    file, latents = unpack((GOLDEN / f"{name}.dkic").read_bytes()), np.load(GOLDEN / "latents.npz")
    with torch.inference_mode():
        y_hat = decode_latent(file, weights)  # raises where the latents' checksum is wrong
        y = torch.from_numpy(latents[f"{name}.y"]).cuda().double() / 64
        z_hat, header = latents.get(f"{name}.z_hat"), file.header
        if z_hat is not None:
            z_hat = torch.from_numpy(z_hat).cuda().double()
        again = encode_latent(y, z_hat, weights, header.quality, header.qstep)
    assert y_hat.is_cuda and again == file.image


def test_weights_of_the_older_arithmetic_are_refused(tmp_path):
    path = tmp_path / "real.safetensors"
    save_weights(path, real(), 1, {})
    with pytest.raises(DkicError, match="real.safetensors: weights of arithmetic float64-1 are reproducible only on CPUs"):
        dkic.load(path, device="cuda")
