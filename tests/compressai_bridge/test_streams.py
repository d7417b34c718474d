"""Streams of accelerated models are CompressAI's, both ways, and decode to the same tensors."""

import copy
import io

import pytest
import torch
from compressai_bridge.bridge_models import MODELS, images, model_of

from dkic.compressai import accelerate, accelerated, restore


def decompressed(model, out) -> torch.Tensor:
    with torch.no_grad():
        return model.decompress(out["strings"], out["shape"])["x_hat"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_streams_are_interchangeable(name, batch):
    model, x = model_of(name), images(batch)
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


def test_restore_gives_every_class_back():
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
