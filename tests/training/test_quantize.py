"""dkic quantize: converts entropy networks to integers and large weights of the transforms to 8 bits, and nothing else."""

import pytest
import torch
from command_line import dkic
from photographs import crop
from PIL import Image
from quantized.quantized_models import real

from dkic.coding.codec import Codec
from dkic.entropy.arithmetic import Arithmetic
from dkic.models.int8_weights import from_int8, is_large, to_int8
from dkic.models.weights_file import load_weights, save_weights
from dkic.quantized import calibrate, prepare
from dkic.training.loop import steps_of
from dkic.training.photos import PhotoFolder
from dkic.training.quantization_run import QuantizationRun, QuantizeSettings, latents_of

QUICK = ("--steps", "2", "--batch", "1", "--crop", "64", "--threads", "1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        Image.fromarray(crop(128, 192, left=200 * i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Float weights."""
    path = tmp_path_factory.mktemp("trained") / "real.safetensors"
    save_weights(path, real(), 1, {})
    return path


@pytest.fixture(scope="module")
def quantized(trained, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "small.safetensors"
    result = dkic("quantize", str(trained), str(photos), "-o", str(path), "--measure", str(photos), *QUICK)
    assert result.status == 0, result.err
    return path, result.out


def test_the_file_has_integer_networks_and_rounded_transforms(trained, quantized):
    before, after = load_weights(trained), load_weights(quantized[0])
    assert (before.arithmetic, after.arithmetic) == (Arithmetic.FLOAT64, Arithmetic.EXACT)
    assert after.quality == before.quality and after.about["quantized"]["from"] == before.hash.hex()
    for part in ("g_a", "g_s", "h_a"):
        ours, theirs = getattr(after.model, part).state_dict(), getattr(before.model, part).state_dict()
        for name, t in theirs.items():
            assert torch.equal(ours[name], from_int8(*to_int8(t)) if is_large(t) else t), name
    assert (before.tables.frequencies == after.tables.frequencies).all()


def test_quantized_weights_code_at_about_the_same_rate(trained, quantized):
    pixels = crop(128, 192)
    exact, real = (Codec([load_weights(path)]) for path in (quantized[0], trained))
    data = exact.compress(pixels, verify=True)
    assert exact.decompress(data, "numpy").shape == pixels.shape
    assert len(data) < 1.3 * len(real.compress(pixels))  # two crops are few for the calibration


def test_training_changes_only_the_entropy_networks(photos):
    network = real().requires_grad_(False)
    x = torch.from_numpy(crop(64, 64).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad(), calibrate(network):
        network.latent_bits(*latents_of(network, x), None)
    prepare(network)
    before = {name: p.clone() for name, p in network.named_parameters()}
    settings = QuantizeSettings(steps=2, batch=1, crop=64)
    results = list(steps_of(QuantizationRun(network, settings, PhotoFolder(photos, 64), torch.device("cpu"))))
    assert [result.step for result in results] == [1, 2] and all(result.loss == result.bpp > 0 for result in results)
    moved = {name.partition(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved and moved <= set(network.entropy_networks())


def test_the_rate_change_is_reported(quantized):
    assert "bits of y in 2 images" in quantized[1] and "cost: " in quantized[1] and "before training" in quantized[1]


def test_quantized_weights_are_refused(quantized, photos, tmp_path):
    result = dkic("quantize", str(quantized[0]), str(photos), "-o", str(tmp_path / "again.safetensors"), *QUICK)
    assert result.status == 1 and "its entropy networks are quantized already" in result.err
    assert list(tmp_path.iterdir()) == []


def test_standard_output(trained, photos, tmp_path, capfdbinary):
    settings = ("--steps", "0", "--batch", "1", "--crop", "64", "--threads", "1")
    result = dkic("quantize", trained, photos, "-o", "-", *settings)
    assert (result.status, result.out) == (0, "")
    (tmp_path / "x.safetensors").write_bytes(capfdbinary.readouterr().out)
    assert load_weights(tmp_path / "x.safetensors").arithmetic == Arithmetic.EXACT
    result = dkic("quantize", trained, photos, "-o", "-", "--measure", photos, *settings)
    assert result.status == 2 and "--measure: reads the new weights file, and /dev/stdout is a stream" in result.err


def test_a_missing_gpu_is_refused(trained, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = dkic("quantize", str(trained), str(photos), "-o", str(tmp_path / "x.safetensors"), "--device", "cuda", *QUICK)
    assert result.status == 1 and "--device cuda: torch finds no GPU here" in result.err
    assert list(tmp_path.iterdir()) == []


def test_invalid_options_are_refused(trained, photos, tmp_path):
    wrong = (
        ("--crop", "100", "multiple of 64"),
        ("--lr", "0", "--lr: must be above 0"),
        ("--batch", "0", "--batch: must be at least"),
    )
    for option, value, message in wrong:
        result = dkic("quantize", str(trained), str(photos), "-o", str(tmp_path / "x.safetensors"), option, value)
        assert result.status != 0 and message in result.err and "Traceback" not in result.err


def test_images_too_small_to_measure_are_refused(trained, photos, tmp_path):
    Image.fromarray(crop(63, 200)).save(tmp_path / "low.png")
    for measure, message in ((tmp_path, "must have an image of at least 64x64 pixels"), (tmp_path / "none", "no such folder")):
        options = ("-o", str(tmp_path / "x.safetensors"), "--measure", str(measure))
        result = dkic("quantize", str(trained), str(photos), *options, *QUICK)
        assert result.status != 0 and message in result.err and "Traceback" not in result.err
