"""Quantized forms of CompressAI's entropy networks: hyper-synthesis, context prediction, entropy parameters."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from compressai.layers import CheckerboardMaskedConv2d, MaskedConv2d
from torch import Tensor, nn

from dkic.quantized import ACTIVATION_MAX, ActivationScale, LatentInput, QuantizedConv2d, QuantizedLayer

LATENT_UNITS = 64  # a latent is rounded to multiples of 1/64
# Powers of two, so that multiplying by them is exact. The smallest scale in CompressAI's table is 0.11, and the next one 0.124.
UNITS = {"scales": 1 / 2048, "means": 1 / 64}
OUTPUT_BOUND = 2**20  # units: scales to 512, means to 16384
LAYERS = "Conv2d, ConvTranspose2d, PixelShuffle, ReLU and LeakyReLU"
_CONVOLUTIONS = (nn.Conv2d, MaskedConv2d, CheckerboardMaskedConv2d)


class EntropyParameters(QuantizedLayer):
    """Integers of the last layer -> scales and means: real numbers, multiples of the unit of their channel.

    Args:
        units: the unit of each channel; powers of two.
    """

    unit: Tensor

    def __init__(self, units: Sequence[float]) -> None:
        super().__init__()
        self.hold_constant("unit", torch.tensor(units, dtype=torch.float32, device="cpu").view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, channels, h, w]`: returned as it is in the float state."""
        return x if self.is_float else x * self.unit


class QuantizedNetwork(nn.Module):
    """A network as a sequence of quantized layers.

    Args:
        network: a convolution, or a Sequential of the layers in `LAYERS` that begins with a convolution.
        name: name of the network in its model, for error messages.
        inputs: scales of the input's activations, in the order of its channels; None: the input is a latent.
        chunks: contents of the output's channels, in equal parts: "scales", "means"; None: activations with scale `outputs`.

    Raises:
        TypeError: a layer has no quantized form.
    """

    outputs: ActivationScale

    def __init__(
        self,
        network: nn.Module,
        name: str,
        inputs: Sequence[ActivationScale] | None = None,
        chunks: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        stages = list(_stages(network, name))
        layers: list[nn.Module] = []
        if inputs is None:
            entry = LatentInput(stages[0].weight.shape[1], LATENT_UNITS)
            layers.append(entry)
            inputs = [entry.scale]
        units: list[float] = []
        scales = []
        for stage in stages:
            channels = len(stage.weight) // stage.upscale**2
            last = stage is stages[-1]
            if last and chunks is not None:
                units = [UNITS[chunk] for chunk in chunks for _ in range(channels // len(chunks))]
                outputs = ActivationScale(channels, units)
                layers.append(stage.quantized(inputs, outputs, OUTPUT_BOUND))
                layers.append(EntropyParameters(units))
            else:
                outputs = ActivationScale(channels, per_channel=True)
                layers.append(stage.quantized(inputs, outputs))
            scales.append(outputs)
            inputs = [outputs]
        self.layers, self.scales = nn.Sequential(*layers), nn.ModuleList(scales)
        self.outputs = outputs
        self.to(stages[0].weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, C, h, w]`, a latent or activations with scales `inputs` -> `[N, out, h', w']`, see `chunks`."""
        y: Tensor = self.layers(x)
        return y


class _Stage(NamedTuple):
    """A convolution with the upscaling and the activation that follow it."""

    weight: Tensor  # [out * upscale^2, in, k, k]
    bias: Tensor
    stride: int
    padding: int
    upscale: int = 1
    slope: float | None = None  # of the activation's negative side; None: there is no activation

    def quantized(
        self, inputs: Sequence[ActivationScale], outputs: ActivationScale, bound: int = ACTIVATION_MAX
    ) -> QuantizedConv2d:
        out, channels, k, _ = self.weight.shape
        layer = QuantizedConv2d(
            channels,
            out,
            k,
            self.stride,
            self.padding,
            inputs=inputs,
            outputs=outputs,
            bound=bound,
            relu=self.slope is not None,
            negative_slope=self.slope or 0.0,
            upscale=self.upscale,
        )
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer


def _stages(network: nn.Module, name: str) -> Iterator[_Stage]:
    stage: _Stage | None = None
    for layer_name, layer in _leaves(network, name):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            if stage is not None:
                yield stage
            stage = _convolution(layer, layer_name) if isinstance(layer, nn.Conv2d) else _transposed(layer, layer_name)
        elif stage is None:
            raise _refusal(layer_name, f"is a {type(layer).__name__} before any convolution")
        elif isinstance(layer, nn.PixelShuffle):
            if stage.upscale > 1:
                raise _refusal(layer_name, "is a PixelShuffle of a result that is upscaled already")
            stage = stage._replace(upscale=layer.upscale_factor)
        elif isinstance(layer, nn.ReLU | nn.LeakyReLU):
            slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
            if stage.slope is not None:
                raise _refusal(layer_name, "is an activation that follows another")
            if not 0 <= slope < 1:
                raise _refusal(layer_name, f"has a negative_slope of {slope}, which must be 0 to 1")
            stage = stage._replace(slope=slope)
        else:
            raise _refusal(layer_name, f"is a {type(layer).__name__}")
    if stage is None:
        raise _refusal(name, "has no convolution")
    yield stage


def _leaves(network: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(network, QuantizedNetwork):
        raise TypeError(f"model: {name} is bit-exact already; give the float model")
    if type(network) is nn.Sequential:
        for key, layer in network.named_children():
            yield from _leaves(layer, f"{name}.{key}")
    elif type(network) is not nn.Identity:
        yield name, network


def _convolution(layer: nn.Conv2d, name: str) -> _Stage:
    if type(layer) not in _CONVOLUTIONS:
        raise _refusal(name, f"is a {type(layer).__name__}")
    weight = layer.weight * layer.mask if isinstance(layer, MaskedConv2d) else layer.weight
    k, stride, padding = _geometry(layer, name)
    if padding >= k:
        raise _refusal(name, f"has a padding of {padding}, which must be below its kernel_size")
    return _Stage(weight.detach(), _bias(layer), stride, padding)


def _transposed(layer: nn.ConvTranspose2d, name: str) -> _Stage:
    """A transposed convolution as a convolution and `pixel_shuffle`: one filter for each position of stride x stride outputs.

    Output stride * m + r is the sum over t of x[m + t] * w[r + padding - stride * t].
    """
    if type(layer) is not nn.ConvTranspose2d:
        raise _refusal(name, f"is a {type(layer).__name__}")
    k, stride, padding = _geometry(layer, name)
    if any(k - 2 * padding + extra != stride for extra in layer.output_padding):
        raise _refusal(name, "has an output that is not stride times its input")
    reach = max(-math.ceil((padding - k + 1) / stride), (stride - 1 + padding) // stride)
    size = 2 * reach + 1
    weight = layer.weight.new_zeros((layer.out_channels, stride, stride, layer.in_channels, size, size))
    taps = [(r, t + reach, r + padding - stride * t) for r in range(stride) for t in range(-reach, reach + 1)]
    taps = [(r, at, j) for r, at, j in taps if 0 <= j < k]
    with torch.no_grad():
        for row, y, i in taps:
            for column, x, j in taps:
                weight[:, row, column, :, y, x] = layer.weight[:, :, i, j].t()
    bias = _bias(layer).repeat_interleave(stride**2)
    return _Stage(weight.flatten(0, 2), bias, 1, reach, upscale=stride)


def _geometry(layer: nn.Conv2d | nn.ConvTranspose2d, name: str) -> tuple[int, int, int]:
    """kernel_size, stride and padding."""
    if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise _refusal(name, "has groups, dilation, or a padding that is not a number of zeros")
    pairs = layer.kernel_size, layer.stride, layer.padding
    if any(a != b for a, b in pairs):
        raise _refusal(name, "has a kernel_size, stride or padding that differs between rows and columns")
    k, stride, padding = (a for a, _ in pairs)
    return k, stride, padding


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    return layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()


def _refusal(name: str, reason: str) -> TypeError:
    return TypeError(f"model: {name} {reason}; a bit-exact network has {LAYERS} of common shapes only")
