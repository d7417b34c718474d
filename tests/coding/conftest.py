"""Codecs and files that several test modules use."""

import pytest
import torch
from photographs import crop, photograph
from trained_weights import THREE_QUALITIES

import dkic
from dkic.coding.codec import Codec
from dkic.models import DKIC, PRESETS
from dkic.models.weights_file import save_weights


@pytest.fixture(scope="module")
def codec() -> Codec:
    return dkic.load(THREE_QUALITIES)


@pytest.fixture(scope="module")
def small(codec) -> bytes:
    return codec.compress(crop(64, 64))


@pytest.fixture(scope="module")
def two_qualities(tmp_path_factory) -> Codec:
    """Untrained, two qualities: the second's latent is larger, so its files are."""
    folder = tmp_path_factory.mktemp("model")
    for quality, gain in ((2, 1), (7, 30)):
        torch.manual_seed(0)
        model = DKIC(PRESETS["tiny"])
        with torch.no_grad():
            model.g_a[-1].weight.mul_(gain)
        save_weights(folder / f"untrained-q{quality}.safetensors", model, quality, {})
    return dkic.load(folder)


@pytest.fixture(scope="module")
def demo_file(codec) -> bytes:
    return codec.compress(photograph())
