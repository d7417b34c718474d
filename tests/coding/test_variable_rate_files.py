"""Files coded with a variable-rate model."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import dkic as dkic_command
from models.variable_rate_models import converted, real
from PIL import Image

import dkic
from dkic.coding import codec as codec_module
from dkic.coding.codec import Codec
from dkic.coding.container import DkicFile, pack, unpack
from dkic.coding.operating_points import OperatingPoint, VariableRate
from dkic.errors import DkicError, FormatError
from dkic.models.trainable import trainable
from dkic.models.weights_file import load_weights, save_weights


@pytest.fixture(scope="module", params=["integers", "float"])
def path(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    save_weights(path, converted() if request.param == "integers" else real(), 1, {})
    return path


@pytest.fixture(scope="module")
def codec(path) -> Codec:
    return dkic.load(path)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def test_qualities_are_1_to_100(codec):
    assert isinstance(codec.points, VariableRate) and codec.qualities == list(range(1, 101))
    assert len({codec.model_hash(quality) for quality in codec.qualities}) == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 70), (64, 96), (129, 63)])
def test_any_image_size_is_preserved(codec, height, width):
    for quality in (1, 37, 100):
        data = codec.compress(image(height, width), quality, verify=True)
        assert codec.decompress(data, "numpy").shape == (height, width, 3)
        assert unpack(data).header.quality == quality


def test_the_size_rises_with_the_quality(codec):
    sizes = [len(codec.compress(image(96, 128), quality)) for quality in (1, 20, 40, 60, 80, 100)]
    assert sizes == sorted(sizes) and sizes[-1] > 2 * sizes[0]


def test_qsteps_lie_between_qualities(codec):
    x = image(256, 320)
    sizes = [len(codec.compress(x, 50, qstep=qstep)) for qstep in (7, 0, -8)]
    assert sizes == sorted(sizes)
    assert codec.compress(x, 50, qstep=0) == codec.compress(x, 50)


def test_an_operating_point_beyond_the_qualities_is_refused(codec):
    for quality, qstep in ((1, 1), (100, -1)):
        with pytest.raises(DkicError, match="from 1 to 100"):
            codec.compress(image(64, 64), quality, qstep=qstep)
    with pytest.raises(DkicError, match="use quality 49 with qstep -8"):
        codec.compress(image(64, 64), 50, qstep=8)
    with pytest.raises(DkicError, match="quality 101: the model does not have it; use 1 to 100"):
        codec.compress(image(64, 64), 101)


def test_the_command_names_the_range_of_qualities(path, tmp_path):
    Image.fromarray(image(32, 32)).save(tmp_path / "a.png")
    result = dkic_command("compress", tmp_path / "a.png", "-o", tmp_path / "a.dkic", "-q", 140, "--model", path)
    assert result.status == 2 and "does not have 140; use 1 to 100" in result.err


def test_the_default_quality(codec):
    assert unpack(codec.compress(image(64, 64))).header.quality == 50


@pytest.mark.parametrize("share", [0.1, 0.37, 0.8])
def test_a_target_is_met_within_one_percent_and_never_exceeded(codec, share):
    x = image(256, 320, seed=1)
    low, high = (8 * len(codec.compress(x, quality)) / (256 * 320) for quality in (1, 100))
    target = low + share * (high - low)
    data = codec.compress(x, target_bpp=target)
    assert 0.99 * target <= 8 * len(data) / (256 * 320) <= target
    assert codec.decompress(data, "numpy").shape == x.shape


def test_a_target_is_searched_without_repeating_the_analysis(codec, monkeypatch):
    network, calls = codec.weights_of(1).model, []
    analyze = type(network).analyze
    monkeypatch.setattr(type(network), "analyze", lambda self, x: calls.append(len(x)) or analyze(self, x))
    codec.compress(image(128, 128), target_bpp=1.0)
    assert calls == [1]


def test_decoding_uses_the_quality_in_the_header(codec):
    """A file whose header is changed to another quality decodes to another image, or is refused."""
    file = unpack(codec.compress(image(96, 96), 60))
    header = type(file.header)(**vars(file.header) | {"quality": 61})
    with pytest.raises(FormatError, match="other arithmetic"):
        codec.decompress(pack(DkicFile(header, file.image)))


def test_an_unreachable_target_is_detected_early(codec, monkeypatch):
    coded = []
    encode = codec_module.encode_latent
    monkeypatch.setattr(codec_module, "encode_latent", lambda *options: coded.append(options) or encode(*options))
    with pytest.raises(DkicError, match="no operating point is within 1e-06 bits per pixel"):
        codec.compress(image(64, 64), target_bpp=1e-6)
    assert len(coded) < 30


@pytest.mark.parametrize(("quality", "qstep"), [(0, 0), (101, 0), (255, 0), (1, 1), (0, -8), (100, -1), (101, 8)])
def test_a_file_with_a_quality_beyond_the_model_is_refused(codec, quality, qstep):
    """It is not decoded with the nearest quality."""
    file = unpack(codec.compress(image(64, 64), 1 if quality < 50 else 100))
    header = type(file.header)(**vars(file.header) | {"quality": quality, "qstep": qstep})
    with pytest.raises(FormatError, match="header: quality .* from 1 to 100"):
        codec.decompress(pack(DkicFile(header, file.image)))


def test_variable_rate_weights_are_not_combined_with_others(path):
    variable = load_weights(path)
    fixed = SimpleNamespace(model=SimpleNamespace(variable_rate=False), path=path, qualities=range(150, 151))
    for other in (replace(variable, quality=7), fixed):
        for both in ([variable, other], [other, variable]):
            with pytest.raises(DkicError, match="a variable-rate model is one weights file"):
                Codec(both)


def test_operating_points():
    points = VariableRate(range(1, 101))
    assert list(map(points.cache_number, points.all())) == list(range(16, 1601))
    assert all(-8 <= qstep < 8 for _, qstep in points.all())
    assert set(points.measured_first()) <= set(points.candidates()) <= set(points.all())
    assert points.measured_first()[0] == OperatingPoint(1, 0) and points.measured_first()[-1] == OperatingPoint(100, 0)


def test_weights_can_be_loaded_for_training(path):
    weights = load_weights(path)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    again = trainable(weights)
    for quality in (1.0, 50.0, 100.0):
        at = torch.tensor([quality])
        with torch.no_grad():
            a, b = (m.latent_bits(m.analyze(x), None, at).quantized_bits.item() for m in (weights.model.float(), again))
        assert b == pytest.approx(a, rel=0.05)
