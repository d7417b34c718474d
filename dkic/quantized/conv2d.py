"""Quantized convolution."""

import math
from collections.abc import Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.ops import quantized_conv2d
from dkic.ops.requantize import requantize, round_ste
from dkic.quantized.activation_scale import ACTIVATION_MAX, ActivationScale, UsedScales
from dkic.quantized.layer import QuantizedLayer, check_multiplier, in_exact_type

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHT_MAX = 127
SUM_BOUND = 2**24  # float32 represents every smaller integer
_NEGATIVE_MAX = 2**22  # largest magnitude of a negative result before negative_slope
_BLOCK_BYTES = 4 * 2**20  # size of a block of the unfolded input


class QuantizedConv2d(QuantizedLayer, nn.Conv2d):
    """Convolution from activations with one or more scales to activations with another scale.

    Args:
        inputs: scales of the input, in the order of its channels.
        outputs: scale of the result.
        bound: the result is clamped to -bound ... bound.
        relu: clamp to 0 ... bound instead, also in the float state.
        negative_slope: with relu, negative values are multiplied by it instead of clamped, as in LeakyReLU.
        groups: 1, or the number of channels.
        upscale: the result is rearranged by `pixel_shuffle` with this factor; `outputs` has out_channels / upscale^2 channels.

    Raises:
        ValueError: negative_slope is not in [0, 1), or is given without relu.
    """

    stored: ClassVar = MappingProxyType({"weight": torch.int8, "bias": torch.int32, "multiplier": torch.float32})
    needs_scales = True
    bias: Tensor
    multiplier: Tensor
    slope: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        inputs: Iterable[ActivationScale],
        outputs: ActivationScale,
        bound: int = ACTIVATION_MAX,
        relu: bool = False,
        negative_slope: float = 0.0,
        groups: int = 1,
        upscale: int = 1,
    ) -> None:
        if not 0 <= negative_slope < 1 or (negative_slope and not relu):
            raise ValueError(f"QuantizedConv2d/negative_slope: is {negative_slope}; give 0 to 1, and relu=True")
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, stride, padding, groups=groups)
        self.scales = UsedScales(tuple(inputs), outputs)
        self.low, self.high = (0 if relu else -bound), bound
        self.upscale = upscale
        # float32, as requantization multiplies in it. Fixed by the architecture, so it is not saved.
        if relu and negative_slope:
            self.hold_constant("slope", torch.tensor([negative_slope], dtype=torch.float32, device="cpu"))
            self.low = -min(math.ceil(bound / negative_slope), _NEGATIVE_MAX)
        else:
            self.register_buffer("slope", None)
        self._parts: list[tuple[slice, Tensor]] | None = None
        self._packed: Tensor | None = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._parts = self._packed = None  # of the weight before

    def integers(self) -> dict[str, Tensor]:
        """weight `[out, in / groups, k, k]`, bias `[out]` and multiplier `[out]`."""
        scales = self.scales.input_vector
        weight = self.weight * (scales.view(1, -1, 1, 1) if self.groups == 1 else scales.view(-1, 1, 1, 1))
        # The second bound is for a layer initialized to zero: it keeps the integer bias far below 2^24.
        unit = torch.maximum(weight.detach().abs().amax((1, 2, 3)) / WEIGHT_MAX, self.bias.detach().abs() * 2.0**-22)
        unit = unit.clamp_min(1e-12)
        return {
            "weight": round_ste(weight / unit.view(-1, 1, 1, 1)),
            "bias": round_ste(self.bias / unit),
            "multiplier": unit / self._output_scale(),
        }

    def dequantize_from(self, other: "Self") -> None:
        scales = self.scales.input_vector
        unit = other.multiplier * self._output_scale()
        weight = other.weight * unit.view(-1, 1, 1, 1)
        self.weight.copy_(weight / (scales.view(1, -1, 1, 1) if self.groups == 1 else scales.view(-1, 1, 1, 1)))
        self.bias.copy_(other.bias * unit)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        weight = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return {"weight": weight, "bias": (self.out_channels,), "multiplier": (self.out_channels,)}

    def check_bounds(self) -> None:
        check_multiplier(self.multiplier)
        if self.weight.eq(-WEIGHT_MAX - 1).any():
            raise DkicError(f"weight: must be from -{WEIGHT_MAX} to {WEIGHT_MAX}")
        bias = _largest(self.bias)
        if bias >= SUM_BOUND:  # it is added in float32
            raise DkicError(f"bias: must be below 2^24, not {bias}")
        most = ACTIVATION_MAX * _largest_filter(self.weight) + bias
        if most >= 2**31:
            raise DkicError(f"weight: the sums of a filter must stay below 2^31, and could reach {most}")
        self._parts = self._packed = None
        self.parts()

    def parts(self) -> list[tuple[slice, Tensor]]:
        """Slices of the input channels with their weights, float32: the fewest whose sums, with the bias, stay below 2^24."""
        if self._parts is None or self._parts[0][1].device != self.weight.device:
            channels, bias = self.weight.shape[1], _largest(self.bias)
            for count in range(1, channels + 1):
                ends = [channels * i // count for i in range(count + 1)]
                slices = [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]
                most = max(ACTIVATION_MAX * _largest_filter(self.weight[:, part]) for part in slices)
                # With several parts, the bias is added to their int32 sum.
                if most + (bias if count == 1 else 0) < SUM_BOUND:
                    break
            else:
                raise DkicError(
                    f"weight: the sums of a filter must stay below 2^24, and could reach {most} with a bias of {bias}"
                )
            # Stored in the order in which `integer_convolution` multiplies, which saves a copy per call.
            laid_out = self.weight.float().permute(2, 3, 1, 0)
            self._parts = [(part, laid_out[:, :, part].contiguous().permute(3, 2, 0, 1)) for part in slices]
        return self._parts

    def packed(self) -> Tensor:
        """The weight in the layout of the native op."""
        if self._packed is None:
            self._packed = quantized_conv2d.packed(self.weight)
        return self._packed

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, in_channels, H, W]` -> `[N, out_channels / upscale^2, Ho, Wo]`.

        Both are real numbers in the float state, otherwise integer activations.
        """
        if self.is_float:
            y = nn.Conv2d.forward(self, x)
            if self.slope is not None:
                y = y.clamp_min(0) + self.slope * y.clamp_max(0)
            elif self.low == 0:
                y = y.relu()
            y = self._rearranged(y)
            self.scales.output.observe(y)
            return y
        with torch.autocast(x.device.type, enabled=False):  # half precision would round the sums
            units = self._units(in_exact_type(x))
            if self.slope is not None:
                units = units.clamp_min(0) + requantize(units, None, self.slope, -self.high, 0).to(units.dtype)
        return self._rearranged(units)

    def _units(self, x: Tensor) -> Tensor:
        """The result before negative_slope, in units of the output's scale."""
        if self.converted and self.groups == 1 and quantized_conv2d.runs_on(x):
            geometry = self.stride[0], int(self.padding[0]), self.low, self.high
            return quantized_conv2d.quantized_conv2d(x, self.packed(), self.bias, self.multiplier, *geometry)
        if self.converted:
            return requantize(self._total(x), self.bias.float(), self.multiplier, self.low, self.high).to(x.dtype)
        now = self.integers()
        total = self._conv_forward(x.float(), now["weight"], None)
        return requantize(total, now["bias"], now["multiplier"], self.low, self.high)

    def _rearranged(self, y: Tensor) -> Tensor:
        return F.pixel_shuffle(y, self.upscale) if self.upscale > 1 else y

    def _output_scale(self) -> Tensor:
        """The output's scale, `[1]` or `[out_channels]`: that of the channel to which `pixel_shuffle` moves each filter."""
        scale = self.scales.output.scale
        return scale.repeat_interleave(self.upscale**2) if len(scale) > 1 else scale

    def _total(self, x: Tensor) -> Tensor:
        geometry = self.stride[0], int(self.padding[0]), self.groups
        total, *more = (
            integer_convolution(x if self.groups > 1 else x[:, part], weight.to(x.dtype), *geometry)
            for part, weight in self.parts()
        )
        return torch.stack([t.round().to(torch.int32) for t in (total, *more)]).sum(0, dtype=torch.int32) if more else total


def integer_convolution(a: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """Convolution of integers by matrix products, which are exact below 2^24; Winograd or FFT algorithms may err by 1/2.

    a `[N, C, H, W]`; weight `[out, C / groups, k, k]`, in a's dtype; groups: 1 or C. Returns `[N, out, Ho, Wo]`, channels_last.
    """
    out, _, k, _ = weight.shape
    a = F.pad(a, (padding,) * 4).contiguous(memory_format=torch.channels_last)
    windows = a.unfold(2, k, stride).unfold(3, k, stride).permute(0, 2, 3, 4, 5, 1)  # [N, Ho, Wo, k, k, C], a view
    n, height, width, _, _, c = windows.shape
    total = a.new_empty((n, height, width, out))
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, out)  # [k k C / groups, out]
    rows = max(1, _BLOCK_BYTES // (width * k * k * c * a.element_size()))
    for i in range(n):
        for start in range(0, height, rows):
            block = windows[i, start : start + rows]
            if groups == 1:
                sums = block.reshape(-1, k * k * c) @ matrix
            else:
                sums = (block.reshape(-1, k * k, c) * matrix.view(k * k, c)).sum(1)
            total[i, start : start + rows] = sums.view(-1, width, out)
    return total.permute(0, 3, 1, 2)


def _largest_filter(weight: Tensor) -> int:
    """The largest sum of a filter's absolute weights."""
    return int(weight.long().abs().sum((1, 2, 3)).max())


def _largest(t: Tensor) -> int:
    return int(t.long().abs().max())
