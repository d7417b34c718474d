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
        raise ValueError("a weight of two numbers needs a quality")
    low, high = weight
    return low * torch.pow(high / low, (quality - 1) / (MAX_QUALITY - 1))
