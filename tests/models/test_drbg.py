"""DRBG: its shape and its skip."""

import pytest
import torch

from dkic.models import DRBG


@pytest.mark.parametrize("bottlenecks", [0, 1, 3])
@pytest.mark.parametrize("shape", [(1, 12, 16, 16), (2, 12, 5, 9), (1, 12, 1, 1)])
def test_drbg_keeps_the_shape(shape, bottlenecks):
    block = DRBG(12, 3, bottlenecks)
    x = torch.randn(shape, requires_grad=True)
    y = block(x)
    assert y.shape == shape and y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_drbg_has_a_skip_over_its_body():
    block = DRBG(12, 3)
    torch.nn.init.zeros_(block.body[-1].weight), torch.nn.init.zeros_(block.body[-1].bias)
    x = torch.randn(1, 12, 6, 6)
    assert torch.equal(block(x), x)


def test_the_skip_keeps_its_input_and_its_precision_under_autocast():
    block = DRBG(6, 2, 1)
    x = torch.linspace(-3, 3, 6 * 7 * 5).reshape(1, 6, 7, 5)
    before = x.clone()
    torch.nn.init.zeros_(block.body[-1].weight), torch.nn.init.zeros_(block.body[-1].bias)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32 and torch.equal(y, before) and torch.equal(x, before)
