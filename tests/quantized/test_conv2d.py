"""QuantizedConv2d: negative slopes and upscaling."""

import pytest
import torch
import torch.nn.functional as F

from dkic.ops import quantized_conv2d
from dkic.quantized import ActivationScale, QuantizedConv2d, calibrate, convert, dequantize, prepare


def made(**named) -> QuantizedConv2d:
    """4 filters of 1x1 on one channel."""
    return QuantizedConv2d(
        1, 4, 1, inputs=[ActivationScale(1, 1.0)], outputs=named.pop("outputs", ActivationScale(1, 1.0)), **named
    )


@pytest.mark.parametrize("native", [True, False], ids=["native", "products"])
def test_negative_slope_in_integers(native, monkeypatch):
    """Rounded half to even, after the convolution's own rounding."""
    layer = QuantizedConv2d(
        1, 4, 1, inputs=[ActivationScale(1, 1.0)], outputs=ActivationScale(1, 1.0), relu=True, negative_slope=0.25, upscale=2
    )
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0, 2.0, -3.0]).view(4, 1, 1, 1) * 127)
        layer.bias.zero_()
    convert(layer)
    monkeypatch.setattr(quantized_conv2d, "runs_on", lambda x: native)
    x = torch.arange(-255.0, 256).view(1, 1, 1, -1)
    exact = F.pixel_shuffle(x * layer.multiplier.view(-1, 1, 1) * 127 * torch.tensor([1.0, -1, 1, -1]).view(-1, 1, 1), 2)
    exact = exact.round()
    expected = torch.where(exact < 0, (exact * 0.25).round(), exact).clamp(-255, 255)
    assert torch.equal(layer(x), expected) and expected.min() < -90


def test_per_channel_scales_are_those_after_upscaling():
    torch.manual_seed(0)
    scale = ActivationScale(2, per_channel=True)
    layer = QuantizedConv2d(3, 8, 3, 1, 1, inputs=[ActivationScale(3, 1.0)], outputs=scale, upscale=2)
    x = torch.randint(-9, 10, (2, 3, 5, 4)).float()
    with torch.no_grad():
        layer.weight[:4].mul_(20)
        with calibrate(torch.nn.ModuleList([layer, scale])):
            y = layer(x)
        steps = scale.scale.clone()
        torch.testing.assert_close(steps, 1.5 * y.abs().amax((0, 2, 3)) / 255)
        prepare(layer)
        prepared = layer(x)
        assert ((prepared * steps.view(2, 1, 1) - y).abs() < 2 * steps.view(2, 1, 1)).all()
        convert(layer)
        assert torch.equal(layer(x), prepared)


def test_dequantize_an_upscaling_layer():
    torch.manual_seed(0)
    scale = ActivationScale(1, [0.5])
    layers = [made(outputs=scale, upscale=2, relu=True, negative_slope=0.1) for _ in range(2)]
    convert(layers[0])
    dequantize(*layers)
    x = torch.arange(-50.0, 50).view(1, 1, 10, 10)
    with torch.no_grad():
        # Rounded twice below 0: 0.1 * 0.5 + 0.5.
        assert (layers[1](x) / 0.5 - layers[0](x)).abs().max() <= 0.55 + 1e-2


@pytest.mark.parametrize(("slope", "relu"), [(-0.1, True), (1.0, True), (0.1, False)])
def test_invalid_negative_slopes_are_refused(slope, relu):
    with pytest.raises(ValueError, match="QuantizedConv2d/negative_slope"):
        made(relu=relu, negative_slope=slope)
