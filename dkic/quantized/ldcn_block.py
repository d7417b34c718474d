"""Quantized LDCN block."""

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.nn.ldcn_block import LDCNBlock, plus_branch
from dkic.ops import ldcn
from dkic.ops.requantize import requantize, round_ste
from dkic.quantized.activation_scale import ACTIVATION_MAX, ActivationScale, UsedScales
from dkic.quantized.conv2d import QuantizedConv2d
from dkic.quantized.layer import QuantizedLayer, check_multiplier, in_exact_type

if TYPE_CHECKING:
    from typing_extensions import Self

OFFSET_UNITS, OFFSET_MAX = 8, 64  # offsets are multiples of 1/8 px, to 8 px
MASK_UNITS = 64  # a mask of 1
_LOGIT_UNITS, LOGIT_MAX = 16, 127  # the mask's logits are multiples of 1/16, to 7.9


class QuantizedLDCNBlock(QuantizedLayer, LDCNBlock):
    """`LDCNBlock` with a 3x3 kernel, sigmoid masks, no ReLU and a skip, as a quantized layer.

    Args:
        channels, groups: as for `LDCNBlock`.
        scale: scale of x and of the result.

    Raises DkicError as `LDCNBlock`.

    Once quantized, offsets are multiples of 1/8 pixel, and masks are multiples of 1/64, from a table. So bilinear weights are
    multiples of 1/64, and a sum over 9 taps is at most 9 * 64 * 64 * 255 < 2^24 units: the float op `ldcn` is exact. The other
    masks of `LDCNBlock` have no quantized form, since the table holds uint8 numbers for masks from 0 to 1.
    """

    stored: ClassVar = MappingProxyType({"mask_table": torch.uint8, "aggregate_multiplier": torch.float32})
    mask_table: Tensor
    aggregate_multiplier: Tensor

    def __init__(self, channels: int, groups: int, scale: ActivationScale) -> None:
        self.scales = UsedScales((scale,), scale)
        LDCNBlock.__init__(self, channels, groups, mask="sigmoid", relu=False)

    def _convolutions(self, channels: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        scale = self.scales.output
        self.value_scale, self.depthwise_scale, self.aggregate_scale = (ActivationScale(channels) for _ in range(3))
        units = [1 / OFFSET_UNITS] * (2 * self.taps) + [1 / _LOGIT_UNITS] * self.taps
        self.offset_mask_scale = ActivationScale(self.taps * 3, units)
        value = QuantizedConv2d(channels, channels, 1, inputs=[scale], outputs=self.value_scale)
        depthwise = QuantizedConv2d(channels, channels, 3, 1, 1, inputs=[scale], outputs=self.depthwise_scale, groups=channels)
        offset_mask = QuantizedConv2d(
            channels, self.taps * 3, 1, inputs=[self.depthwise_scale], outputs=self.offset_mask_scale, bound=LOGIT_MAX
        )
        project = QuantizedConv2d(channels, channels, 1, inputs=[self.aggregate_scale], outputs=scale)
        return value, depthwise, offset_mask, project

    def integers(self) -> dict[str, Tensor]:
        """The masks of all logits, and the multiplier of the aggregate."""
        logits = torch.arange(-LOGIT_MAX, LOGIT_MAX + 1, dtype=torch.float32, device=self.value_scale.scale.device)
        return {"mask_table": _mask_of(logits), "aggregate_multiplier": self._aggregate_multiplier()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"mask_table": (2 * LOGIT_MAX + 1,), "aggregate_multiplier": (1,)}

    def check_bounds(self) -> None:
        check_multiplier(self.aggregate_multiplier)
        if self.mask_table.max() > MASK_UNITS:
            raise DkicError(f"mask_table: must be from 0 to {MASK_UNITS}")

    def dequantize_from(self, other: "Self") -> None:
        multiplier = other.aggregate_multiplier.clamp_min(1e-12)
        self.aggregate_scale.scale.copy_(self.value_scale.scale / (multiplier * (MASK_UNITS * OFFSET_UNITS**2)))

    def forward(self, x: Tensor) -> Tensor:
        """x `[N, channels, H, W]` -> the same shape: real numbers in the float state, otherwise integer activations."""
        if self.is_float:
            total = self.aggregate(x)
            self.aggregate_scale.observe(total)
            y = plus_branch(x, self.project(total))
            self.scales.output.observe(y)
            return y
        x = in_exact_type(x)
        value, offset_mask = self.value(x), self.offset_mask(self.depthwise(x))
        offset, logits = offset_mask[:, : self.taps * 2], offset_mask[:, self.taps * 2 :]
        offset = offset.clamp(-OFFSET_MAX, OFFSET_MAX) / OFFSET_UNITS
        mask = self.mask_table[(logits + LOGIT_MAX).long()].to(x.dtype) if self.converted else _mask_of(logits)
        multiplier = self.aggregate_multiplier if self.converted else self._aggregate_multiplier()
        with torch.autocast(x.device.type, enabled=False):  # half precision would round the sums
            total = ldcn(value, offset, mask, kernel_size=self.kernel_size, padding=self.kernel_size // 2) * OFFSET_UNITS**2
        y = requantize(total, None, multiplier, -ACTIVATION_MAX, ACTIVATION_MAX).to(x.dtype)
        return (x + self.project(y)).clamp(-ACTIVATION_MAX, ACTIVATION_MAX)

    def _aggregate_multiplier(self) -> Tensor:
        return self.value_scale.scale / (self.aggregate_scale.scale * (MASK_UNITS * OFFSET_UNITS**2))


def _mask_of(logits: Tensor) -> Tensor:
    """Masks of logits in units of 1/16, as integers 0 to 64 in float32."""
    return round_ste((logits / _LOGIT_UNITS).sigmoid() * MASK_UNITS)
