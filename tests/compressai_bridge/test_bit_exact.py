"""Bit-exact models: their streams decode to the same symbols whatever carries out the networks."""

import copy
import os
import re
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from compressai.entropy_models import GaussianConditional
from compressai.latent_codecs import GaussianConditionalLatentCodec, HyperLatentCodec, HyperpriorLatentCodec
from compressai.layers import GDN
from compressai_bridge.bridge_models import MODELS, images, model_of
from torch import Tensor, nn

from dkic.compressai import accelerated, load_bit_exact, make_bit_exact
from dkic.compressai.quantized_network import QuantizedNetwork
from dkic.errors import DkicError
from dkic.ops import quantized_conv2d
from dkic.quantized import calibrate, conv2d, convert

NAMES = ("scale", "mean scale", "elic official", "elic chandelier", "cheng2020 checkerboard")


def decoded(model: nn.Module, out: dict) -> Tensor:
    """y_hat: what the image's transform is given."""
    seen = []
    hook = model.g_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad(), hook:
        model.decompress(out["strings"], out["shape"])
    return seen[0]


def compressed(model: nn.Module, x: Tensor) -> dict:
    with torch.no_grad():
        return model.compress(x)


def checksum(y_hat: Tensor) -> int:
    return zlib.crc32(y_hat.contiguous().numpy().tobytes())


class Case(NamedTuple):
    """A bit-exact model, streams of it, and what they decode to."""

    model: nn.Module
    out: dict
    y_hat: Tensor


def bytes_of(out: dict) -> int:
    return sum(len(s) for strings in out["strings"] for s in strings)


@cache
def converted(name: str) -> tuple[Case, int, tuple[int, int]]:
    """A model's case, the bytes of its streams before, and what `make_bit_exact` reports. The model must stay as it is."""
    model, x = model_of(name), images(2)
    before = bytes_of(compressed(model, x))
    report = make_bit_exact(model, x)
    out = compressed(model, x)
    return Case(model, out, decoded(model, out)), before, report


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return converted(request.param)[0]


def test_the_encoder_and_the_decoder_have_the_same_latent(case):
    model, _, y_hat = case
    with torch.no_grad():
        y = model.g_a(images(2))
    assert y_hat.std() > 1 and (y_hat - y).abs().max() <= 0.5 + 1e-3
    assert torch.equal(y_hat * 64, (y_hat * 64).round())


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads(case, threads):
    model, out, y_hat = case
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(decoded(model, out), y_hat)
    finally:
        torch.set_num_threads(before)


def test_without_onednn(case):
    model, out, y_hat = case
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(decoded(model, out), y_hat)


def test_by_products_of_matrices(case, monkeypatch):
    """As on a GPU."""
    model, out, y_hat = case
    monkeypatch.setattr(quantized_conv2d, "runs_on", lambda x: False)
    assert torch.equal(decoded(model, out), y_hat)


def test_one_image_at_a_time(case):
    model, out, y_hat = case
    for i in range(2):
        alone = {**out, "strings": [strings[i : i + 1] for strings in out["strings"]]}
        assert torch.equal(decoded(model, alone), y_hat[i : i + 1])


def test_with_dkics_coder(case):
    model, out, y_hat = case
    with accelerated(model):
        assert torch.equal(decoded(model, out), y_hat)
        assert compressed(model, images(2))["strings"] == out["strings"]


def test_errors_above_one_half_change_the_symbols(monkeypatch):
    """The tests above can fail."""
    model, out, y_hat = converted("mean scale")[0]
    original = conv2d.integer_convolution
    monkeypatch.setattr(quantized_conv2d, "runs_on", lambda x: False)
    monkeypatch.setattr(conv2d, "integer_convolution", lambda *a: original(*a) + 40)
    assert not torch.equal(decoded(model, out), y_hat)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """State, streams and checksum of each model."""
    folder = tmp_path_factory.mktemp("bit_exact")
    for name in NAMES:
        model, out, y_hat = converted(name)[0]
        torch.save((model.state_dict(), out, checksum(y_hat)), folder / f"{name}.pt")
    return folder


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "default", "DKIC_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"},
        {"ATEN_CPU_CAPABILITY": "avx2", "DKIC_CPU_CAPABILITY": "avx2"},
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "3"},
    ],
    ids=lambda environment: " ".join(environment.values()),
)
def test_another_process_with_other_instructions_decodes_the_streams(files, environment):
    code = """if True:
        import sys
        import torch
        from compressai_bridge.bridge_models import MODELS
        from compressai_bridge.test_bit_exact import NAMES, checksum, decoded
        from dkic.compressai import load_bit_exact
        for name in NAMES:
            state, out, expected = torch.load(f"{sys.argv[1]}/{name}.pt")
            model = load_bit_exact(MODELS[name]().eval(), state)
            assert checksum(decoded(model, out)) == expected, name
            print(name)
    """
    tests = os.path.dirname(os.path.dirname(__file__))
    run = subprocess.run(
        [sys.executable, "-c", code, str(files)], cwd=tests, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_of_the_streams(name):
    (model, out, _), before, report = converted(name)
    after = bytes_of(out)
    assert report == (before, after) and report.rate_change == after / before - 1
    assert abs(report.rate_change) < 0.01 and not model.training


def test_calibration_and_measurement_have_their_own_images():
    model, x = model_of("mean scale"), images(3)
    before = bytes_of(compressed(model, x[2:]))
    assert make_bit_exact(model, iter(x[:2].split(1)), measure=[x[2:]]).float_bytes == before


def test_scales_and_means_are_multiples_of_their_units(case):
    model, out, _ = case
    seen = []
    gaussians = [m for m in model.modules() if isinstance(m, GaussianConditional)]
    for gaussian in gaussians:
        build = gaussian.build_indexes
        gaussian.build_indexes = lambda scales, build=build: seen.append(scales) or build(scales)
    try:
        decoded(model, out)
    finally:
        for gaussian in gaussians:
            del gaussian.build_indexes
    assert seen and all(torch.equal(scales * 2048, (scales * 2048).round()) for scales in seen)
    assert max(float(scales.std()) for scales in seen) > 0


@pytest.mark.parametrize("name", ["mean scale", "elic official"])
def test_copies_decode_too(name):
    model, out, y_hat = converted(name)[0]
    assert torch.equal(decoded(copy.deepcopy(model), out), y_hat)


# ---- Layers ----


@pytest.mark.parametrize(
    ("k", "stride", "padding", "extra"), [(5, 2, 2, 1), (3, 1, 1, 0), (4, 2, 1, 0), (4, 4, 0, 0), (3, 2, 1, 1), (7, 3, 2, 0)]
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
def test_a_transposed_convolution_is_one_with_pixel_shuffle(k, stride, padding, extra, bias):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 3, k, stride, padding, extra, bias=bias)
    x = torch.randn(2, 5, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(QuantizedNetwork(layer, "h_s")(x), layer(x))


def test_a_network_in_integers_is_near_the_float_one():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(6, 32, 3, padding=1), nn.PixelShuffle(2)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.ConvTranspose2d(8, 12, 5, 2, 2, 1),
        nn.ReLU(),
        nn.Identity(),
        nn.Conv2d(12, 8, 1, bias=False),
    )
    z = (3 * torch.randn(2, 6, 9, 8)).round() + 0.3
    with torch.no_grad():
        network[-1].weight.mul_(40)  # so that the units of the output are small beside it
        expected = network(z)
        quantized = QuantizedNetwork(network, "h_s", chunks=("means", "scales"))
        with calibrate(quantized):
            torch.testing.assert_close(quantized(z), expected)
        convert(quantized)
        actual = quantized(z)
    assert not torch.equal(actual, expected)
    assert (actual - expected).square().mean().sqrt() < 0.03 * expected.std()
    assert torch.equal(actual[:, :4] * 64, (actual[:, :4] * 64).round())
    assert torch.equal(actual[:, 4:] * 2048, (actual[:, 4:] * 2048).round())


# ---- What is refused ----


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), GDN(4)), "h_s.1 is a GDN"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), "h_s.0 is a ReLU before any convolution"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))), "h_s.1.0 has groups"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, dilation=2)), "h_s.0 has groups, dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "h_s has groups, dilation, or a padding"),
        (nn.Conv2d(4, 4, 3, padding="same"), "h_s has groups, dilation, or a padding"),
        (nn.Conv2d(4, 4, (3, 1)), "h_s has a kernel_size"),
        (nn.Conv2d(4, 4, 1, padding=1), "h_s has a padding of 1"),
        (nn.ConvTranspose2d(4, 4, 5, 2, 2), "h_s has an output that is not stride times its input"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.LeakyReLU(1.5)), "h_s.1 has a negative_slope of 1.5"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.ReLU()), "h_s.2 is an activation that follows another"),
        (nn.Sequential(nn.ConvTranspose2d(4, 16, 2, 2), nn.PixelShuffle(2)), "h_s.1 is a PixelShuffle of a result"),
        (nn.Sequential(), "h_s has no convolution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_layer_without_a_quantized_form_is_named(network, message):
    with pytest.raises(TypeError, match=f"model: {message}"):
        QuantizedNetwork(network, "h_s")


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(NAMES)))
def test_other_models_are_refused(name):
    model = model_of(name)
    kind = "latent_codec.y is a RasterScanLatentCodec" if name == "raster scan" else type(model).__name__
    with pytest.raises(TypeError, match=kind):
        make_bit_exact(model, images(1))


def latent_codec_model(y: nn.Module) -> nn.Module:
    model = MODELS["raster scan"]()
    hyper = model.latent_codec.hyper
    model.latent_codec = HyperpriorLatentCodec({"y": y, "hyper": hyper})
    model.update()
    return model


class OtherHyper(HyperLatentCodec):
    pass


def test_latent_codecs_without_a_bit_exact_form_are_named():
    with pytest.raises(TypeError, match=r"latent_codec.y has the chunks \('means',\)"):
        make_bit_exact(latent_codec_model(GaussianConditionalLatentCodec(chunks=("means",))), images(1))
    model = latent_codec_model(GaussianConditionalLatentCodec())
    model.latent_codec.hyper.__class__ = OtherHyper
    with pytest.raises(TypeError, match="latent_codec.hyper is a OtherHyper"):
        make_bit_exact(model, images(1))


@pytest.mark.parametrize("parameters", [None, nn.Sequential(nn.Conv2d(32, 24, 1), nn.LeakyReLU(), nn.Conv2d(24, 32, 1))])
def test_a_hyperprior_of_latent_codecs(parameters):
    torch.manual_seed(0)
    model = latent_codec_model(GaussianConditionalLatentCodec(entropy_parameters=parameters)).eval()
    with torch.no_grad():
        model.g_a.weight.mul_(40)
    report = make_bit_exact(model, images(2))
    out = compressed(model, images(2))
    with torch.no_grad():
        y = model.g_a(images(2))
    assert (decoded(model, out) - y).abs().max() <= 0.5 + 1e-3 and abs(report.rate_change) < 0.01


def test_a_bound_that_fails_leaves_the_model_as_it_was():
    model = model_of("elic official")
    before = compressed(model, images(1))["strings"]
    kinds = [type(m) for m in model.modules()]
    last = model.latent_codec.y.latent_codec["y3"].entropy_parameters[-1]
    bias = last.bias.detach().clone()
    with torch.no_grad():
        last.bias[-1] = float("nan")
    model.train()
    with pytest.raises(
        DkicError, match=r"latent_codec.y.latent_codec.y3.entropy_parameters.layers.\d: multiplier: must be finite"
    ):
        make_bit_exact(model, images(1))
    with torch.no_grad():
        last.bias.copy_(bias)
    assert model.training and [type(m) for m in model.modules()] == kinds
    assert compressed(model.eval(), images(1))["strings"] == before


def test_wrong_arguments_are_refused():
    model = model_of("mean scale")
    for arguments, message in [(([],), "images: has no images"), ((images(1), []), "measure: has no images")]:
        with pytest.raises(ValueError, match=message):
            make_bit_exact(model, *arguments)
    with pytest.raises(TypeError, match="must be a torch.nn.Module, and is a str"):
        make_bit_exact("mean scale", images(1))
    with pytest.raises(ValueError, match="update"):
        make_bit_exact(MODELS["mean scale"](), images(1))


WRONG_IMAGES = [
    ([3, 4], TypeError, "contains a int"),
    (3, TypeError, "is a int"),
    ("photo.png", TypeError, "contains a str"),
    (images(1)[0], ValueError, r"shape \[3, 128, 128\]"),
    (images(1)[:0], ValueError, r"shape \[0, 3, 128, 128\]"),
    (images(1)[:, :1], ValueError, r"shape \[1, 1, 128, 128\]"),
    (images(1) * 255, ValueError, "has values from"),
    (images(1) * float("nan"), ValueError, "has values from nan"),
    ((images(1) * 255).byte(), TypeError, "torch.uint8"),
    (images(1).double(), TypeError, "torch.float64"),
    (images(1).to("meta"), ValueError, "on meta"),
    (images(1)[..., :100, :90], ValueError, "100x90 pixels .*; crop or pad both sides to a multiple of 64"),
]


@pytest.mark.parametrize(("wrong", "exception", "token"), WRONG_IMAGES, ids=[token for *_, token in WRONG_IMAGES])
@pytest.mark.parametrize("argument", ["images", "measure"])
def test_wrong_images_are_named_and_the_model_is_unchanged(wrong, exception, token, argument):
    model = shared_model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(exception, match=f"^make_bit_exact/{argument}: .*{token}") as caught:
        make_bit_exact(model, **{"images": images(1), argument: wrong})
    assert "; " in str(caught.value)
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@cache
def shared_model() -> nn.Module:
    return model_of("mean scale")


def test_a_converted_model_is_not_converted_again():
    model = model_of("mean scale")
    make_bit_exact(model, images(1))
    with pytest.raises(TypeError, match="h_s is bit-exact already"):
        make_bit_exact(model, images(1))


def test_only_the_state_of_a_converted_model_is_loaded():
    model = model_of("mean scale")
    with pytest.raises(DkicError, match="load/state_dict: has no h_s.layers.0.multiplier"):
        load_bit_exact(model, model.state_dict())
    assert isinstance(model.h_s, nn.Sequential)
    make_bit_exact(model, images(1))
    state = model.state_dict()
    state["h_s.layers.1.weight"] = torch.full_like(state["h_s.layers.1.weight"], -128)
    with pytest.raises(DkicError, match="h_s.layers.1: weight: .* 127"):
        load_bit_exact(MODELS["mean scale"](), state)


def test_the_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "compressai.md").read_text()
    (example,) = (code for code in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "bit_exact" in code)
    names: dict = {}
    exec(compile(example, "compressai.md", "exec"), names)
    assert "%" in capsys.readouterr().out and isinstance(names["model"].h_s, QuantizedNetwork)
