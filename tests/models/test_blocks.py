"""LDCNBlock and DRBG."""

import pytest
import torch
import torch.nn.functional as F

from dkic.errors import DkicError
from dkic.models import DRBG, LDCNBlock

MASKS = ("sigmoid", "softmax", "linear", "none")


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("mask", "weight"), [("sigmoid", 0.5), ("softmax", 1 / 9), ("none", 1.0)])
def test_it_begins_as_a_plain_grid(mask, weight, residual):
    """Offsets of zero and equal weights: a sum over the 3x3 neighbours."""
    torch.manual_seed(0)
    block = LDCNBlock(6, 2, mask=mask, residual=residual, relu=False).double()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    neighbours = F.avg_pool2d(block.value(x), 3, 1, 1) * 9
    expected = block.project(weight * neighbours) + (x if residual else 0)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("kernel_size", "relu"), [(3, False), (3, True), (5, False)])
def test_a_linear_mask_begins_as_a_static_kernel_of_each_group(kernel_size, relu):
    """The bias is the kernel: a depthwise convolution whose channels share it within a group."""
    torch.manual_seed(0)
    block = LDCNBlock(6, 2, kernel_size, "linear", relu=relu).double()
    kernel = block.offset_mask.bias[block.taps * 2 :]
    assert kernel.min() < 0 < kernel.max() and kernel.abs().max() <= 1 / kernel_size
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    weight = kernel.reshape(2, 1, 1, kernel_size, kernel_size).repeat_interleave(3, 0).flatten(0, 1)
    total = F.conv2d(block.value(x), weight, padding=kernel_size // 2, groups=6)
    torch.testing.assert_close(block(x), x + block.project(total.relu() if relu else total))


@torch.no_grad()
def test_a_linear_mask_is_not_bounded():
    inside = taps_only("linear")(torch.randn(1, 4, 8, 8) * 10)[..., 1:-1, 1:-1]
    assert inside.min() < -9 and inside.max() > 9


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("mask", MASKS)
def test_any_mask_and_kernel_keeps_the_shape_and_teaches_every_parameter(mask, kernel_size):
    torch.manual_seed(0)
    block = LDCNBlock(8, 4, kernel_size, mask)
    torch.nn.init.normal_(block.offset_mask.weight, std=0.3)
    x = torch.randn(2, 8, 9, 6)
    y = block(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    if kernel_size == 1 and mask == "softmax":  # of one tap: always 1
        assert not block.offset_mask.weight.grad[8:].any()
    assert all(p.grad.any() for p in block.parameters())


def taps_only(mask: str) -> LDCNBlock:
    """value gives 1 everywhere, project passes it on, the offsets stay 0: what comes out is the sum of the mask's taps."""
    torch.manual_seed(1)
    block = LDCNBlock(4, 2, mask=mask, residual=False, relu=False)
    torch.nn.init.normal_(block.offset_mask.weight[block.taps * 2 :], std=1)
    torch.nn.init.zeros_(block.value.weight), torch.nn.init.ones_(block.value.bias)
    torch.nn.init.dirac_(block.project.weight), torch.nn.init.zeros_(block.project.bias)
    return block


@torch.no_grad()
def test_softmax_weights_sum_to_one():
    inside = taps_only("softmax")(torch.randn(1, 4, 8, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@torch.no_grad()
def test_sigmoid_weights_lie_between_zero_and_one_and_follow_the_input():
    inside = taps_only("sigmoid")(torch.randn(1, 4, 8, 8))[..., 1:-1, 1:-1]
    assert inside.min() > 0 and inside.max() < 9 and inside.std() > 0.1


@torch.no_grad()
def test_without_mask_every_tap_counts_one():
    inside = taps_only("none")(torch.randn(1, 4, 8, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 9))


@pytest.mark.parametrize(
    ("channels", "groups", "kernel_size", "mask"),
    [(8, 3, 3, "none"), (8, 0, 3, "none"), (8, -2, 3, "none"), (8, 2, 2, "none"), (8, 2, 3, "relu"), (8, 2, 3, None)],
)
def test_wrong_arguments_are_refused(channels, groups, kernel_size, mask):
    with pytest.raises(DkicError, match=f"{channels} channels, {groups} groups, kernel_size {kernel_size}, mask {mask!r}"):
        LDCNBlock(channels, groups, kernel_size, mask)


@pytest.mark.parametrize("bottlenecks", [0, 1, 3])
@pytest.mark.parametrize("shape", [(1, 12, 16, 16), (2, 12, 5, 9), (1, 12, 1, 1)])
def test_drbg_keeps_the_shape(shape, bottlenecks):
    block = DRBG(12, 3, bottlenecks)
    x = torch.randn(shape, requires_grad=True)
    y = block(x)
    assert y.shape == shape and y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_drbg_skips_over_its_body():
    block = DRBG(12, 3)
    torch.nn.init.zeros_(block.body[-1].weight), torch.nn.init.zeros_(block.body[-1].bias)
    x = torch.randn(1, 12, 6, 6)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    "block",
    [LDCNBlock(6, 2), LDCNBlock(6, 2, mask="sigmoid", relu=False), DRBG(6, 2, 1)],
    ids=["sigmoid", "linear", "DRBG"],
)
def test_the_skip_leaves_its_input_alone_and_keeps_its_precision_under_autocast(block):
    x = torch.linspace(-3, 3, 6 * 7 * 5).reshape(1, 6, 7, 5).requires_grad_()
    before = x.detach().clone()
    for layer in block.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.float32 and torch.equal(y, before) and torch.equal(x, before)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
