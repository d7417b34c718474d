"""g_a and g_s on images of any size, in tiles if they are large. Images are padded to a multiple of 64."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from dkic.coding.tiles import tile_side, tiled
from dkic.models.config import LATENT_STRIDE
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.weights_file import Weights

Result = TypeVar("Result")


def _without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Runs the transforms in float32, independent of the caller's autocast, so that files do not depend on it."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Result:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*arguments, **options)

    return wrapped


@_without_autocast
def analyze(x: Tensor, weights: Weights, tile: int | None = None) -> tuple[Tensor, Tensor | None]:
    """x `[1, 3, H, W]`, uint8 or float32 in [0, 1], any size -> y, and z_hat as integers (None: no hyper-prior)."""
    side, device = tile_side(x.shape[-2], x.shape[-1], tile), weights.device
    x = _padded(x)
    height, width = (side // LATENT_STRIDE for side in x.shape[-2:])
    channels = weights.model.config.latent_channels
    y = torch.empty((1, channels, height, width), dtype=torch.float32, device=device, memory_format=torch.channels_last)

    def write(part: Tensor, top: int, left: int) -> None:
        y[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part

    def g_a(part: Tensor) -> Tensor:
        part = part.to(device)
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        return weights.model.analyze(part.contiguous(memory_format=torch.channels_last))

    tiled(g_a, x, side, weights.model.config.receptive_field, write)
    z = weights.model.hyper_latent(y)
    return y, None if z is None else z.round()


@_without_autocast
def synthesize(
    y_hat: Tensor, height: int, width: int, weights: Weights, tile: int | None = None, quality: Tensor | None = None
) -> Tensor:
    """y_hat `[1, M, h, w]` -> image `[1, 3, height, width]`, uint8, channels_last.

    quality: see `Weights.quality_at`.
    """
    image = torch.empty((1, 3, height, width), dtype=torch.uint8, device="cpu", memory_format=torch.channels_last)

    def write(part: Tensor, top: int, left: int) -> None:
        part = part[..., : height - top, : width - left]  # crops the padding
        image[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part.clamp(0, 1).mul(255).round().to(torch.uint8)

    def g_s(part: Tensor) -> Tensor:
        return weights.model.synthesize(part.contiguous(memory_format=torch.channels_last), quality)

    margin = weights.model.config.receptive_field // LATENT_STRIDE
    tiled(g_s, y_hat, tile_side(height, width, tile) // LATENT_STRIDE, margin, write)
    return image


def _padded(x: Tensor) -> Tensor:
    """Pads to a multiple of 64 by repeating the last row and column, which costs few bits."""
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(side + -side % SIZE_MULTIPLE, device=x.device).clamp_max(side - 1) for side in (h, w))
    return x if len(rows) == h and len(columns) == w else x[..., rows[:, None], columns]
