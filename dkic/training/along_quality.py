"""Weights that depend on the quality."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dkic.entropy.quantization import MAX_QUALITY


def along(weight: float | Sequence[float], quality: Tensor | None) -> Tensor | float:
    """A weight at qualities `[N]`: the number itself, or between two numbers, at quality 1 and at 100, geometrically: `[N]`."""
    if isinstance(weight, float | int):
        return weight
    if quality is None:
        raise ValueError("quality: must be given for a weight of two numbers")
    low, high = weight
    return low * torch.pow(high / low, (quality - 1) / (MAX_QUALITY - 1))


def spread_qualities(first: float, n: int, device: torch.device) -> Tensor:
    """n qualities `[n]`, float32, evenly spaced over 1 to 100 from the place `first`, in [0, 1), on, and around."""
    places = (first + torch.arange(n, dtype=torch.float64, device=device) / n) % 1
    return (1 + (MAX_QUALITY - 1) * places).float()
