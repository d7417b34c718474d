"""A model, images, and a cache folder for each test."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from quantized.quantized_models import converted
from rate_control.rate_control_cases import GAINS, POINTS, SIZES

import dkic as package
from dkic.coding.codec import Codec
from dkic.coding.color_profile import SRGB_PRIMARIES, Curve, make_profile
from dkic.evaluation.metrics import batch, mse
from dkic.losses.lpips_backbone import cached_backbone
from dkic.models.weights_file import save_weights

PROFILE = make_profile(Curve(2.2), SRGB_PRIMARIES)  # its bytes are the file's too


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small untrained model with three qualities: a larger latent gives a larger file, and mostly a better image."""
    folder = tmp_path_factory.mktemp("model")
    for quality, gain in GAINS.items():
        network = converted(0)
        with torch.no_grad():
            network.g_a[-1].weight.mul_(gain)
        save_weights(folder / f"small-q{quality}.safetensors", network, quality, {})
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, (height, width, top) in SIZES.items():
        Image.fromarray(crop(height, width, top=top)).save(folder / name, icc_profile=PROFILE if name == "b.png" else None)
    return folder


@pytest.fixture(scope="module")
def table(model, images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pixels `[N]`, bytes and MSE at every point `[N, M]`, by the codec itself."""
    codec = package.load(model)
    pixels, size, distortion = [], [], []
    for name, (height, width, top) in SIZES.items():
        files = [codec.compress(images / name, quality, qstep=qstep) for quality, qstep in POINTS]
        decoded = batch(*(codec.decompress(data, "numpy") for data in files))
        pixels.append(height * width)
        size.append([len(data) for data in files])
        distortion.append(mse(batch(crop(height, width, top=top)).expand_as(decoded), decoded).tolist())
    return np.array(pixels), np.array(size), np.array(distortion)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DKIC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def backbone() -> Path:
    need_backbone("alex")
    return cached_backbone("alex")


@pytest.fixture
def alex(backbone, cache):
    """LPIPS' weights in this test's own cache."""
    cache.mkdir()
    (cache / backbone.name).symlink_to(backbone)


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """Files that are decoded to images, one for each measured operating point."""
    seen, decompress = [], Codec.decompress

    def watched(self, data, *args, **options):
        seen.append(data)
        return decompress(self, data, *args, **options)

    monkeypatch.setattr(Codec, "decompress", watched)
    return seen
