"""HiFiC's discriminator: layers, stride and receptive field of its logits, and the detached condition."""

import pytest
import torch
from torch import nn

from dkic.models.discriminator import Discriminator


@pytest.fixture
def small() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(6, width=8)


def convolutions(module: nn.Module) -> list[tuple[int, int, int, int]]:
    """(in, out, kernel, stride) of every convolution, in order."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.kernel_size[0] == m.kernel_size[1] and m.stride[0] == m.stride[1] for m in layers)
    return [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in layers]


def test_layers_equal_hifics():
    model = Discriminator(220)
    assert convolutions(model.condition) == [(220, 12, 3, 1)]
    widths = [(15, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    assert convolutions(model.patches) == [(*w, 4, stride) for w, stride in zip(widths, (2, 2, 2, 1, 1), strict=True)]
    slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.2] * 5 and isinstance(model.patches[-1], nn.Conv2d)


@pytest.mark.parametrize(("width", "widths"), [(8, [8, 16, 32, 64]), (96, [96, 192, 384, 512]), (600, [600] * 4)])
def test_the_width_is_a_parameter(width, widths):
    assert [after for _, after, _, _ in convolutions(Discriminator(4, width).patches)] == [*widths, 1]


@pytest.mark.parametrize(("height", "width"), [(256, 256), (64, 32), (16, 48)])
def test_a_logit_for_every_8x8_pixels(small, height, width):
    logits = small(torch.rand(2, 3, height, width), torch.randn(2, 6, height // 16, width // 16))
    assert logits.shape == (2, 1, height // 8, width // 8)


def test_the_receptive_field_is_70_pixels_with_a_stride_of_8(small):
    """Rows 8i - 23 to 8i + 46 for logit i: where TensorFlow's padding puts them."""
    x = torch.rand(1, 3, 192, 192, dtype=torch.float64, requires_grad=True)
    small.double()

    def seen(i: int) -> tuple[int, int]:
        (gradient,) = torch.autograd.grad(small(x, torch.zeros(1, 6, 12, 12, dtype=torch.float64))[0, 0, i, i], x)
        rows = gradient.abs().sum((0, 1, 3)).nonzero()
        return rows.min().item(), rows.max().item()

    assert seen(10) == (57, 126) and seen(11) == (65, 134)


def test_every_layers_spectral_norm_is_one(small):
    for _ in range(30):  # in training mode every forward refines the estimate
        small(torch.rand(1, 3, 16, 16), torch.randn(1, 6, 1, 1))
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_eval_mode_is_deterministic(small):
    x, y_hat = torch.rand(1, 3, 32, 32), torch.randn(1, 6, 2, 2)
    changed = small(x, y_hat)
    small.eval()
    first = small(x, y_hat)
    assert torch.equal(first, small(x, y_hat))
    assert first.shape == changed.shape


def test_the_condition_has_an_effect_and_is_detached(small):
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    y_hat = torch.randn(1, 6, 2, 2, requires_grad=True)
    small.eval()
    logits = small(x, y_hat)
    assert not torch.allclose(logits, small(x, -y_hat), atol=1e-4)
    logits.sum().backward()
    assert x.grad.any() and y_hat.grad is None
    assert all(p.grad is not None and p.grad.any() for p in small.parameters())


@pytest.mark.parametrize(
    ("x", "y_hat"),
    [
        ((1, 3, 40, 32), (1, 6, 2, 2)),
        ((1, 3, 32, 32), (1, 5, 2, 2)),
        ((1, 3, 32, 32), (1, 6, 4, 4)),
        ((2, 3, 32, 32), (1, 6, 2, 2)),
        ((1, 1, 32, 32), (1, 6, 2, 2)),
    ],
)
def test_other_shapes_are_refused(small, x, y_hat):
    with pytest.raises(ValueError, match=r"^Discriminator: .* give \[N, 3, H, W\] and \[N, 6, H/16, W/16\]"):
        small(torch.rand(x), torch.rand(y_hat))


def test_a_width_of_0_is_refused():
    with pytest.raises(ValueError, match="^Discriminator: .* are 6, 0 and 12; give at least 1"):
        Discriminator(6, width=0)
