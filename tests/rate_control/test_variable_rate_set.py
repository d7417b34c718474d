"""A target rate of several images with a variable-rate model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import dkic
from models.variable_rate_models import converted
from photographs import crop
from PIL import Image
from rate_control.rate_control_cases import SIZES

import dkic as package
from dkic.coding.container import unpack
from dkic.evaluation.metrics import batch, mse
from dkic.models.weights_file import save_weights
from dkic.rate_control.meter import Meter

PIXELS = np.array([height * width for height, width, _ in SIZES.values()])


@pytest.fixture(scope="module")
def one_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("variable") / "untrained.safetensors"
    save_weights(path, converted(), 1, {})
    return path


def test_actual_bytes_are_within_the_target_and_none_of_the_rest_would_help(one_file, images, tmp_path):
    """No image gets better at a candidate near its own whose file still fits.

    An untrained model's images get worse at some higher qualities, so much of the target can be left.
    """
    codec = package.load(one_file)
    low, high = (8 * sum(len(codec.compress(images / name, q)) for name in SIZES) / PIXELS.sum() for q in (1, 100))
    target = (low + high) / 2
    options = ("--model", one_file, "--distortion", "mse", "--target-bpp", target)
    result = dkic("compress", images, "-o", tmp_path / "out", *options)
    assert result.status == 0, result.err
    files = [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.dkic"))]
    headers = [unpack(data).header for data in files]
    assert len({header.model_hash for header in headers}) == 1 and all(header.qstep == 0 for header in headers)
    spare = target * PIXELS.sum() / 8 - sum(map(len, files))
    assert len(files) == len(SIZES) and spare >= 0
    for name, data, header in zip(SIZES, files, headers, strict=True):
        image = batch(np.asarray(Image.open(images / name)))
        error = mse(image, batch(codec.decompress(data, "numpy")))
        near = [point.quality for point in codec.points.candidates() if abs(point.quality - header.quality) <= 9]
        assert header.quality in near and len(near) >= 4
        for quality in near:
            other = codec.compress(images / name, quality)
            fits = len(other) - len(data) <= spare
            assert not fits or mse(image, batch(codec.decompress(other, "numpy"))) >= error, (name, quality)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.83])
def test_two_images_are_within_a_percent_of_the_target(one_file, tmp_path, monkeypatch, share, mean):
    """Where each image gets better with each byte, as a trained model's do, less than 1 % of the target is left."""
    measured = Meter.measure

    def better_with_each_byte(self, image, point):
        measurement = measured(self, image, point)
        return replace(measurement, scores={"mse": 1e4 / measurement.bytes})

    monkeypatch.setattr(Meter, "measure", better_with_each_byte)
    codec, images = package.load(one_file), {"a.png": crop(160, 120), "b.png": crop(120, 130, top=90)}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / "in" / name)
    pixels = np.array([image[..., 0].size for image in images.values()])

    def rate(files: list[bytes]) -> float:
        bits = 8 * np.array([len(data) for data in files])
        return (bits / pixels).mean() if mean else bits.sum() / pixels.sum()

    low, high = (rate([codec.compress(image, quality) for image in images.values()]) for quality in (1, 100))
    target = low + share * (high - low)
    options = ("--model", one_file, "--distortion", "mse", "--target-bpp", target, *(["--mean"] if mean else []))
    result = dkic("compress", tmp_path / "in", "-o", tmp_path / "out", *options)
    assert result.status == 0, result.err
    files = [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.dkic"))]
    assert 0.99 * target <= rate(files) <= target


def test_measurements_of_qualities_are_kept_separately(one_file, images, tmp_path, decoded):
    """All qualities have the same weights file."""
    command = ("measure", images / "a.png", "--model", one_file, "--distortion", "mse", "-o")
    tables = []
    for name in ("first.csv", "again.csv"):
        result = dkic(*command, tmp_path / name)
        assert result.status == 0, result.err
        tables.append((tmp_path / name).read_text())
    qualities = [int(line.split(",")[1]) for line in tables[0].splitlines()[1:]]
    sizes = [int(line.split(",")[2]) for line in tables[0].splitlines()[1:]]
    assert tables[0] == tables[1] and len(decoded) == len(qualities) == 12
    assert qualities == sorted(qualities) and qualities[0] == 1 and qualities[-1] == 100
    assert sizes == sorted(sizes) and len(set(sizes)) > 6
