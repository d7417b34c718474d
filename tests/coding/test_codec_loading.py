"""`dkic.load`: devices, models and weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from photographs import crop
from trained_weights import THREE_QUALITIES

import dkic
from dkic.coding.codec import Codec
from dkic.errors import DkicError
from dkic.models import DKIC, PRESETS
from dkic.models.weights_file import Weights, load_weights

NO_GPU = [] if torch.cuda.is_available() else ["cuda", "cuda:1", torch.device("cuda")]


@pytest.mark.parametrize("device", [*NO_GPU, "meta", "nonsense"])
def test_an_unusable_device_is_named(device):
    with pytest.raises(DkicError, match=str(device).partition(":")[0]):
        dkic.load(device=device)


def test_a_nonexistent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DkicError, match="device: PyTorch finds no cuda:2; use cuda:0 to cuda:1"):
        dkic.load(device="cuda:2")


@pytest.mark.parametrize("model", ["no-such-model", "", "../small", "small*", "no/such/file.safetensors"])
def test_a_missing_model_is_refused_and_shipped_models_are_listed(model):
    with pytest.raises(DkicError, match="model .* shipped names .*small"):
        dkic.load(model)


def test_a_weights_file_can_be_loaded_by_its_path(codec, small):
    weights = codec.weights_of(codec.qualities[-1])
    for path in (weights.path, str(weights.path)):
        assert dkic.load(path).compress(crop(64, 64)) == small
    assert load_weights(weights.path).hash == weights.hash


def broken_weights(weights: Weights, part: str) -> Weights:
    model = DKIC(PRESETS["tiny"]).eval()
    model.h_s.double(), model.context.double()
    scales = model.context.passes[0][0].parameters_of[-1].bias.chunk(2)[1]
    with torch.no_grad():
        {"latent": model.g_a[-1].bias, "scales": scales}[part].fill_(math.nan)
    return replace(weights, model=model)


@pytest.mark.parametrize("part", ["latent", "scales"])
def test_weights_whose_latent_is_not_finite_are_refused(part, two_qualities):
    with pytest.raises(DkicError, match="broken weights"):
        Codec([broken_weights(two_qualities.weights_of(2), part)]).compress(crop(8, 8))


def test_nan_scales_are_refused_in_decoding(two_qualities):
    data = two_qualities.compress(crop(8, 8), quality=2)
    with pytest.raises(DkicError, match="broken weights"):
        Codec([broken_weights(two_qualities.weights_of(2), "scales")]).decompress(data)


def test_files_of_shipped_models_are_decoded_by_other_models():
    shipped = dkic.load()
    data = shipped.compress(crop(40, 70))
    assert np.array_equal(dkic.load(THREE_QUALITIES).decompress(data, "numpy"), shipped.decompress(data, "numpy"))


def test_the_network_of_another_quality_is_another_model():
    several = dkic.load(THREE_QUALITIES)
    data = several.compress(crop(40, 70), quality=3)
    with pytest.raises(DkicError, match=f"^model {several.model_hash(3).hex()}: is needed to decode the file"):
        dkic.load(several.weights_of(5).path).decompress(data)
