"""The network in training: shapes, rate, determinism, and a gradient for every parameter."""

from collections.abc import Callable

import pytest
import torch
from photographs import crop
from torch import Tensor

import dkic
from dkic.models import DKIC, PRESETS
from dkic.models.weights_file import save_weights
from dkic.ops import gaussian_likelihood


def batch(n: int = 2, height: int = 64, width: int = 128) -> torch.Tensor:
    images = [crop(height, width, top=100 + 60 * i) for i in range(n)]
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in images]).float() / 255


@pytest.fixture
def model() -> DKIC:
    torch.manual_seed(0)
    return DKIC(PRESETS["tiny"])


def test_shapes_and_rate(model):
    out = model(batch())
    assert out.x_hat.shape == (2, 3, 64, 128)
    assert out.bits.shape == (2,) and (out.bits > 0).all() and out.bits.isfinite().all()
    assert out.quantized_bits.shape == (2,) and not out.quantized_bits.requires_grad
    assert out.y_hat.shape == (2, 128, 4, 8) and torch.equal(out.x_hat, model.g_s(out.y_hat))


def with_noise(patch: pytest.MonkeyPatch, noise: Callable[[Tensor], Tensor]) -> None:
    """Has the model add noise(t) to a t that is to be rounded."""

    def likelihood(y, scale, *, quantize, generator=None, reduction):
        given = noise(y.detach()) if quantize == "noise" else None
        return gaussian_likelihood(y, scale, quantize=quantize, noise=given, reduction=reduction)

    patch.setattr("dkic.models.codec_network.gaussian_likelihood", likelihood)
    patch.setattr("dkic.models.dkic._noisy", lambda t, generator: t + noise(t.detach()))


def test_a_batch_equals_its_images(model, monkeypatch):
    """With the noise fixed at zero, an image has the same bits alone and in a batch."""
    with_noise(monkeypatch, torch.zeros_like)
    x = batch()
    with torch.no_grad():
        together = model(x)
        alone = [model(image[None]) for image in x]
    for kind in ("bits", "quantized_bits"):
        expected = torch.cat([getattr(out, kind) for out in alone])
        torch.testing.assert_close(getattr(together, kind), expected, rtol=1e-4, atol=0)


def test_quantized_bits_are_those_of_rounded_latents(model, monkeypatch):
    """Compared with noise that equals rounding; the rounding of means and scales changes little."""
    with torch.no_grad():
        for layer in (model.g_a[-1], model.h_a[-1]):
            layer.weight.mul_(20)  # latents that are not all zero once rounded
        with_noise(monkeypatch, lambda t: t.round() - t)
        out = model(batch())
        assert out.y_hat.round().count_nonzero() > 1000
        torch.testing.assert_close(out.quantized_bits, out.bits, rtol=2e-3, atol=0)
        with_noise(monkeypatch, torch.zeros_like)
        assert not torch.allclose(model(batch()).bits, out.bits, rtol=2e-3)  # of latents that are not rounded


def test_quantized_bits_equal_the_file_size(model, tmp_path):
    """Within 0.1% and the 40 bytes of a file's head."""
    x = batch(1, 192, 256)
    with torch.no_grad():
        model.g_a[-1].weight.mul_(12)  # a latent that is not all zero once rounded
        for parameter in model.parameters():
            parameter.copy_(parameter.half())  # as a file of weights has them
        estimated = model(x).quantized_bits.item()
    save_weights(tmp_path / "tiny-q1.safetensors", model, 1, {})
    size = 8 * len(dkic.load(tmp_path).compress(crop(192, 256, top=100)))
    assert -0.001 * size < size - estimated < 0.001 * size + 8 * 40


def test_nan_scales_give_nan_bits(model):
    """They are not the bits of a table: a diverged model must not look good."""
    with torch.no_grad():
        model.context.passes[0][0].parameters_of[-1].bias.chunk(2)[1].fill_(torch.nan)
        out = model(batch())
    assert out.bits.isnan().all() and out.quantized_bits.isnan().all()


def test_the_generator_determines_the_noise(model):
    x = batch()
    with torch.no_grad():
        first, again, other = (model(x, torch.Generator().manual_seed(seed)).bits for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_parameter_gets_a_gradient(model):
    """Two steps: offset_mask is initialized to zero, so layers before it get no gradient in the first."""
    with torch.no_grad():
        model.h_a[-1].weight.mul_(100)  # z is all zeros once rounded at the start, and h_s would have nothing to learn from
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, learned = batch(), set()
    for step in range(2):
        out = model(x, torch.Generator().manual_seed(step))
        loss = out.bits.sum() / x[:, 0].numel() + 436 * (out.x_hat - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert not without
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        learned |= {name for name, gradient in gradients.items() if gradient.any()}
        optimizer.step()
    assert sorted({name for name, _ in model.named_parameters()} - learned) == []
