"""The quantized convolution compared with float32 convolution, and the quantized context model of `small` at 768x512
with the same layers in float: the cost in time of bit-exactness.

Integer results are compared with float64 before timing.
"""

import pytest
import torch
import torch.nn.functional as F
from whole_codecs import Ours

from dkic.models.presets import network_of
from dkic.models.slice_context import take_cells
from dkic.ops.quantized_conv2d import packed, quantized_conv2d

ROUNDS = 30


@pytest.mark.parametrize("implementation", ["F.conv2d float32", "dkic"])  # the peer first: see conftest.py
@pytest.mark.parametrize(("channels", "out", "k"), [(96, 96, 3), (224, 96, 1)], ids=str)
def test_quantized_conv2d(channels, out, k, implementation, measure):
    """As context models have them, at a latent's size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-255, 256, (1, channels, 32, 48), generator=generator).float().to(memory_format=torch.channels_last)
    weight = torch.randint(-127, 128, (out, channels, k, k), generator=generator)
    bias, multiplier = torch.zeros(out, dtype=torch.int32), torch.full((out,), 1e-4)
    geometry = 1, k // 2
    native, floats = packed(weight), weight.float().contiguous(memory_format=torch.channels_last)
    total = F.conv2d(x.double(), weight.double(), None, *geometry)
    result = quantized_conv2d(x, native, bias, multiplier, *geometry, -255, 255)
    assert torch.equal(result, (total.float() * 1e-4).round().clamp(-255, 255)) and result.std() > 1
    calls = {
        "dkic": lambda: quantized_conv2d(x, native, bias, multiplier, *geometry, -255, 255),
        "F.conv2d float32": lambda: F.conv2d(x, floats, None, *geometry),
    }
    measure(f"quantized_conv2d {channels}->{out} {k}x{k} 48x32", implementation, calls[implementation], ROUNDS)


@pytest.mark.parametrize("implementation", ["float32", "dkic"])
@torch.no_grad()
def test_quantized_network(implementation, measure):
    """An encoder's traversal of the latent, without the coder."""
    quantized = Ours("small").model
    model = quantized if implementation == "dkic" else network_of(quantized.config).eval().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    y = 3 * torch.randn(1, model.context.latent_channels, 32, 48, generator=generator)
    quality = torch.tensor([50.0], dtype=torch.float64)

    def traverse() -> torch.Tensor:
        passes = model.context.coding_passes(model.features(None, quality, y.shape[-2:]))
        for part in passes:
            part.y_hat = take_cells(y[:, part.channels], part.cells)
        return passes.y_hat

    assert torch.equal(traverse(), y)
    measure("quantized context model of small, 768x512", implementation, traverse, ROUNDS)
