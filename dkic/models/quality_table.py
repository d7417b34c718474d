"""Vectors that depend on the quality: learned at a few qualities, linearly interpolated.

A variable-rate model is one network for the qualities 1 to 100, with 16 operating points from one quality to the next. The
tables of the entropy model are quantized layers (see dkic.quantized): converted, they hold integers for the qualities 1 to 100
and interpolate them in integer arithmetic, so results are device-independent.
"""

import math
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from dkic.entropy.quantization import INDEX_LOG_STEP, MAX_QUALITY, MEAN_STEPS, PARTS, SCALE_INDEX_MAX, Quantizer
from dkic.errors import DkicError
from dkic.ops.requantize import round_ste
from dkic.quantized import ACTIVATION_MAX, ActivationScale, QuantizedLayer

if TYPE_CHECKING:
    from typing_extensions import Self

FINEST, COARSEST = 0.5, 64.0  # bounds of the latent's quantization steps


class QualityTable(nn.Module):
    """quality `[N]`, real numbers from 1 to 100 -> vectors `[N, channels]`.

    Args:
        channels: length of a vector.
        points: number of qualities, evenly spaced from 1 to 100, at which vectors are learned; at least 2.
        start: initial value of all channels: a number, or `[points]` of them.
    """

    def __init__(self, channels: int, points: int, start: float | Tensor = 0.0) -> None:
        super().__init__()
        self.channels = channels
        start = torch.as_tensor(start, dtype=torch.float32)
        self.points = nn.Parameter((start.view(-1, 1) if start.ndim else start).expand(points, channels).clone())

    def forward(self, quality: Tensor) -> Tensor:
        last = len(self.points) - 1
        place = (quality.to(self.points.dtype).clamp(1, MAX_QUALITY) - 1) * (last / (MAX_QUALITY - 1))
        low = place.detach().floor().clamp_max(last - 1)
        below, above = self.points[low.long()], self.points[low.long() + 1]
        return torch.lerp(below, above, (place - low).unsqueeze(1))


class QualityScale(nn.Module):
    """x `[N, C, H, W]` -> x * scale + bias; scale and bias of each channel depend on the quality `[N]`."""

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        self.scale, self.bias = QualityTable(channels, points, 1.0), QualityTable(channels, points)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        scale, bias = (table(quality)[..., None, None].to(x.dtype) for table in (self.scale, self.bias))
        return torch.addcmul(bias, x, scale)


class QuantizedQualityTable(QuantizedLayer, QualityTable, ABC):
    """A quality table that, once converted, holds integers `[100, channels]` for each name in `bounds`, within the bounds."""

    replaced = ("points",)
    bounds: ClassVar[dict[str, tuple[int, int]]]

    @abstractmethod
    def numbers(self, quality: Tensor) -> dict[str, Tensor]:
        """Real numbers `[N, channels]` for each name; the nearest integers are stored."""

    @abstractmethod
    def learned(self, integers: dict[str, Tensor]) -> Tensor:
        """The inverse of `numbers`: the learned vectors."""

    def integers(self) -> dict[str, Tensor]:
        found = self.numbers(torch.arange(1.0, MAX_QUALITY + 1, device=self.points.device))
        return {name: round_ste(t.clamp(*self.bounds[name])) for name, t in found.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.stored, (MAX_QUALITY, self.channels))

    def check_bounds(self) -> None:
        for name, (low, high) in self.bounds.items():
            table = getattr(self, name)
            if table.min() < low or table.max() > high:
                raise DkicError(f"{name}: must be from {low} to {high}")

    def dequantize_from(self, other: "Self") -> None:
        qualities = torch.linspace(1, MAX_QUALITY, len(self.points)).mul(PARTS).round() / PARTS
        self.points.copy_(self.learned({name: other.at(name, qualities) for name in self.bounds}))

    def at(self, name: str, quality: Tensor) -> Tensor:
        """Integers `[N, channels]` in float32 for a name; a converted table rounds qualities to multiples of 1/16."""
        if not self.converted:
            return round_ste(self.numbers(quality)[name].clamp(*self.bounds[name]))
        place = (quality.double() * PARTS).round().long() - PARTS
        low = (place // PARTS).clamp(0, MAX_QUALITY - 2)
        part, table = (place - low * PARTS).unsqueeze(1), getattr(self, name).long()
        return ((table[low] * (PARTS - part) + table[low + 1] * part + PARTS // 2) // PARTS).float()


class QualityFeatures(QuantizedQualityTable):
    """Features of the quality for the context network, `[N, channels]`; once quantized, activations with the scale `scale`."""

    stored: ClassVar = MappingProxyType({"features": torch.int16})
    bounds: ClassVar = {"features": (-ACTIVATION_MAX, ACTIVATION_MAX)}

    def __init__(self, channels: int, points: int) -> None:
        super().__init__(channels, points)
        nn.init.normal_(self.points, std=0.5)
        self.scale = ActivationScale(channels, 1 / MEAN_STEPS)

    def numbers(self, quality: Tensor) -> dict[str, Tensor]:
        return {"features": QualityTable.forward(self, quality) * MEAN_STEPS}

    def learned(self, integers: dict[str, Tensor]) -> Tensor:
        return integers["features"] / MEAN_STEPS

    def forward(self, quality: Tensor) -> Tensor:
        return QualityTable.forward(self, quality) if self.is_float else self.at("features", quality)


class QuantizerTable(QuantizedQualityTable):
    """The quantization steps of the latent, learned for each channel; initially 8 at quality 1 to 1 at quality 100.

    Quantization steps are multiples of 1/64, so y_hat is one too, like the means.
    """

    stored: ClassVar = MappingProxyType({"sizes": torch.int16, "offsets": torch.int16})
    bounds: ClassVar = {
        "sizes": (int(FINEST * MEAN_STEPS), int(COARSEST * MEAN_STEPS)),
        "offsets": (-SCALE_INDEX_MAX, SCALE_INDEX_MAX),
    }

    def __init__(self, channels: int, points: int) -> None:
        super().__init__(channels, points, torch.linspace(math.log(8), 0, points))

    def numbers(self, quality: Tensor) -> dict[str, Tensor]:
        log_size = QualityTable.forward(self, quality).clamp(math.log(FINEST), math.log(COARSEST))
        return {"sizes": log_size.exp() * MEAN_STEPS, "offsets": log_size / INDEX_LOG_STEP}

    def learned(self, integers: dict[str, Tensor]) -> Tensor:
        return (integers["sizes"] / MEAN_STEPS).log()

    def forward(self, quality: Tensor) -> Quantizer:  # type: ignore[override]
        """The quantizer at a quality `[N]`: sizes and index offsets, `[N, channels, 1, 1]` each."""
        size = self.at("sizes", quality) / MEAN_STEPS
        offset = self.numbers(quality)["offsets"] if self.is_float else self.at("offsets", quality)
        return Quantizer(size[..., None, None], offset[..., None, None])
