"""LDCNBlock: initialization, masks, and errors."""

import pytest
import torch
import torch.nn.functional as F

from dkic.errors import DkicError
from dkic.nn import LDCNBlock
from dkic.nn.ldcn_block import MASKS


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("mask", "weight"), [("sigmoid", 0.5), ("softmax", 1 / 9), ("none", 1.0)])
def test_the_initial_kernel_sums_the_3x3_neighbors(mask, weight, residual):
    """Offsets of zero and equal weights: a sum over the 3x3 neighbors."""
    torch.manual_seed(0)
    block = LDCNBlock(6, 2, mask=mask, residual=residual, relu=False).double()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    neighbors = F.avg_pool2d(block.value(x), 3, 1, 1) * 9
    expected = block.project(weight * neighbors) + (x if residual else 0)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("kernel_size", "relu"), [(3, False), (3, True), (5, False)])
def test_a_linear_mask_is_initialized_to_a_static_kernel_per_group(kernel_size, relu):
    """The bias is the kernel: a depthwise convolution whose channels share it within a group."""
    torch.manual_seed(0)
    block = LDCNBlock(6, 2, kernel_size, "linear", relu=relu).double()
    kernel = block.offset_mask.bias[block.taps * 2 :]
    assert kernel.min() < 0 < kernel.max() and kernel.abs().max() <= 1 / kernel_size
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    weight = kernel.reshape(2, 1, 1, kernel_size, kernel_size).repeat_interleave(3, 0).flatten(0, 1)
    total = F.conv2d(block.value(x), weight, padding=kernel_size // 2, groups=6)
    torch.testing.assert_close(block(x), x + block.project(total.relu() if relu else total))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_the_predicted_kernel_gets_a_gradient_in_the_first_step(mask, relu):
    torch.manual_seed(0)
    block = LDCNBlock(8, 4, mask=mask, relu=relu)
    block(torch.randn(2, 8, 9, 6)).square().sum().backward()
    offset, weight = block.offset_mask.weight.grad.tensor_split([block.taps * 2])
    assert offset.any() and (weight.any() or mask == "none")


@torch.no_grad()
def test_a_linear_mask_is_not_bounded():
    inside = taps_only("linear")(torch.randn(1, 4, 8, 8) * 10)[..., 1:-1, 1:-1]
    assert inside.min() < -9 and inside.max() > 9


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("mask", MASKS)
def test_any_mask_and_kernel_keeps_the_shape_and_gives_every_parameter_a_gradient(mask, kernel_size):
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
    """A block whose value is 1 everywhere, with zero offsets and project the identity: its result is the sum of the masks."""
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
def test_without_a_mask_every_tap_has_weight_1():
    inside = taps_only("none")(torch.randn(1, 4, 8, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 9))


@pytest.mark.parametrize(
    ("channels", "groups", "kernel_size", "mask", "message"),
    [
        (8, 3, 3, "none", "LDCNBlock/groups: 3 does not divide 8 channels; give one that does"),
        (8, 0, 3, "none", "LDCNBlock/groups: is 0; give at least 1"),
        (8, -2, 3, "none", "LDCNBlock/groups: is -2; give at least 1"),
        (8, 2, 2, "none", "LDCNBlock/kernel_size: is 2; give an odd number"),
        (8, 2, 3, "relu", "LDCNBlock/mask: is 'relu'; give sigmoid, softmax, linear or none"),
        (8, 2, 3, None, "LDCNBlock/mask: is None; give sigmoid, softmax, linear or none"),
    ],
)
def test_wrong_arguments_are_refused(channels, groups, kernel_size, mask, message):
    with pytest.raises(DkicError) as caught:
        LDCNBlock(channels, groups, kernel_size, mask)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "block",
    [LDCNBlock(6, 2), LDCNBlock(6, 2, mask="sigmoid", relu=False)],
    ids=["linear", "sigmoid"],
)
def test_the_skip_keeps_its_input_and_its_precision_under_autocast(block):
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
