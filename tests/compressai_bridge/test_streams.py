"""Streams of accelerated models and of CompressAI are interchangeable, and decode to the same tensors."""

import copy
import io

import pytest
import torch
from compressai.entropy_models import EntropyModel, GaussianConditional
from compressai.latent_codecs import RasterScanLatentCodec
from compressai_bridge.bridge_models import AUTOREGRESSIVE, MODELS, RasterScanModel, images, model_of
from torch import nn

from dkic.compressai import accelerate, accelerated, restore
from dkic.errors import FormatError


def decompressed(model, out) -> torch.Tensor:
    with torch.no_grad():
        return model.decompress(out["strings"], out["shape"])["x_hat"]


# CompressAI 1.2.8's RasterScanLatentCodec does not decompress batches: test_raster_scan_batches.
CASES = [(name, batch) for name in MODELS for batch in (1, 3) if (name, batch) != ("raster scan", 3)]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_streams_are_interchangeable(name, batch):
    # CompressAI takes 10 ms for each position of an autoregressive model.
    model, x = model_of(name), images(batch, 64 if batch > 1 and name in AUTOREGRESSIVE else 128)
    with torch.no_grad():
        theirs = model.compress(x)
        expected = decompressed(model, theirs)
        assert accelerate(model) is model
        ours = model.compress(x)
    assert ours["strings"] == theirs["strings"] and ours["shape"] == theirs["shape"]
    assert all(len(s) > 40 for part in ours["strings"][:1] for s in part)  # symbols are coded
    torch.testing.assert_close(decompressed(model, theirs), expected, rtol=0, atol=1e-5)
    restore(model)
    assert torch.equal(decompressed(model, ours), expected)


def test_raster_scan_batches():
    model, x = accelerate(model_of("raster scan")), images(3, 64)
    with torch.no_grad():
        out = model.compress(x)
        each = [model.compress(x[i : i + 1]) for i in range(3)]
    assert out["strings"] == [[one["strings"][part][0] for one in each] for part in range(2)]
    expected = torch.cat([decompressed(model, one) for one in each])
    torch.testing.assert_close(decompressed(model, out), expected)


@pytest.mark.parametrize("name", ["mean scale", "joint autoregressive"])
def test_a_damaged_stream_is_refused(name):
    model = accelerate(model_of(name))
    with torch.no_grad():
        out = model.compress(images(1))
    y, z = out["strings"]
    for strings in ([[y[0][:-4]], z], [[y[0] + bytes(4)], z], [[y[0][:-1]], z], [[b""], z], [y, [z[0][:8]]]):
        with pytest.raises(FormatError):
            decompressed(model, {**out, "strings": strings})


@pytest.mark.parametrize("name", ["mean scale", "elic official"])
def test_forward_in_evaluation(name):
    model, x = model_of(name), images(2)
    with torch.no_grad():
        expected = model(x)
        with accelerated(model):
            actual = model(x)
    torch.testing.assert_close(actual["x_hat"], expected["x_hat"])
    for key, likelihoods in expected["likelihoods"].items():
        # CompressAI's difference of two erfc in float32 has an absolute error.
        torch.testing.assert_close(actual["likelihoods"][key], likelihoods, rtol=1e-4, atol=3e-7)


def test_restore_restores_every_class():
    model = model_of("elic official")
    before = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    accelerate(accelerate(model))
    assert [type(m) for m in model.modules()] != before and list(model.state_dict()) == keys
    assert all(isinstance(m, b) for m, b in zip(model.modules(), before, strict=True))
    with accelerated(model):  # what was accelerated before stays so
        pass
    assert [type(m) for m in model.modules()] != before
    restore(model)
    assert [type(m) for m in model.modules()] == before


def test_copies_and_pickles_are_accelerated():
    model = accelerate(model_of("mean scale"))
    x = images(1)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    with torch.no_grad():
        strings = model.compress(x)["strings"]
        for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert type(other.gaussian_conditional) is type(model.gaussian_conditional)
            assert other.compress(x)["strings"] == strings
            restore(other)
            assert other.compress(x)["strings"] == strings
    assert hasattr(model.gaussian_conditional, "_dkic_original")


class OwnIndexes(GaussianConditional):
    def build_indexes(self, scales):
        return torch.zeros_like(scales, dtype=torch.int32)


def test_methods_of_a_subclass_are_kept():
    model = model_of("mean scale")
    model.gaussian_conditional.__class__ = OwnIndexes
    x = images(1)
    with torch.no_grad():
        expected = model.compress(x)["strings"]
        with accelerated(model):
            assert type(model.gaussian_conditional).build_indexes is OwnIndexes.build_indexes
            assert type(model.gaussian_conditional).compress is not EntropyModel.compress
            assert model.compress(x)["strings"] == expected


@pytest.mark.parametrize("kept", ["compress", "decompress"])
def test_the_loops_of_an_autoregressive_model_are_replaced_together(kept):
    model = model_of("joint autoregressive")
    original = getattr(type(model), kept)
    own = type("Own", (type(model),), {kept: lambda self, *args: original(self, *args)})
    model.__class__ = own
    with accelerated(model):
        assert type(model).compress is own.compress and type(model).decompress is own.decompress


def test_own_parts_of_a_context_model_are_not_bypassed():
    model = model_of("raster scan")
    codec = next(m for m in model.modules() if isinstance(m, RasterScanLatentCodec))
    codec.merge = lambda params, context: torch.cat([context, params], 1)
    with accelerated(model):
        assert type(codec).compress is RasterScanLatentCodec.compress
    del codec.merge
    codec.gaussian_conditional.build_indexes = lambda scales: torch.zeros_like(scales, dtype=torch.int32)
    with pytest.raises(TypeError, match="build_indexes, and has one of its own.*autoregressive=False"):
        accelerate(model)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="Module"):
        accelerate("mbt2018")
    with pytest.raises(ValueError, match="entropy model"):
        accelerate(nn.Conv2d(3, 3, 1))
    model = RasterScanModel(activation=nn.GELU)
    with pytest.raises(TypeError, match="latent_codec.y.*GELU.*autoregressive=False"):
        accelerate(model)
    assert not any(hasattr(m, "_dkic_original") for m in model.modules())
    accelerate(model, autoregressive=False)
    model = model_of("mean scale")
    model.gaussian_conditional.entropy_coder.name = "rangecoder"
    with pytest.raises(TypeError, match="gaussian_conditional.*rangecoder"):
        accelerate(model)


def test_models_that_are_not_updated_are_refused():
    model = accelerate(MODELS["mean scale"]())
    with pytest.raises(ValueError, match="update"):
        model.compress(images(1))
