"""Input layer of a quantized network for a latent."""

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dkic.ops.requantize import requantize
from dkic.quantized.activation_scale import ACTIVATION_MAX, ActivationScale
from dkic.quantized.layer import QuantizedLayer, check_multiplier, in_exact_type

if TYPE_CHECKING:
    from typing_extensions import Self


class LatentInput(QuantizedLayer):
    """Converts a latent, multiples of 1/`denominator`, to activations with a scale for each channel.

    Args:
        channels: channels of the latent.
        denominator: a power of two.

    Attributes:
        scale: the `ActivationScale` of the activations.
    """

    stored: ClassVar = MappingProxyType({"multiplier": torch.float32})
    multiplier: Tensor

    def __init__(self, channels: int, denominator: int) -> None:
        super().__init__()
        self.scale, self.denominator = ActivationScale(channels, per_channel=True), denominator

    def forward(self, latent: Tensor) -> Tensor:
        """latent `[N, channels, h, w]` unchanged in the float state, otherwise rounded to integers."""
        if self.is_float:
            self.scale.observe(latent)
            return latent
        latent = in_exact_type(latent)
        multiplier = self.multiplier if self.converted else self.integers()["multiplier"]
        units = requantize(latent * self.denominator, None, multiplier, -ACTIVATION_MAX, ACTIVATION_MAX)
        return units.to(latent.dtype)

    def integers(self) -> dict[str, Tensor]:
        return {"multiplier": 1 / (self.scale.scale * self.denominator)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"multiplier": (self.scale.channels,)}

    def check_bounds(self) -> None:
        check_multiplier(self.multiplier)

    def dequantize_from(self, other: "Self") -> None:
        self.scale.scale.copy_(1 / (other.multiplier * self.denominator).clamp_min(1e-12))
