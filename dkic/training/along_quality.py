"""Loss weights that depend on the quality."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dkic.entropy.quantization import MAX_QUALITY


def along(weight: float | Sequence[float], quality: Tensor | None) -> Tensor | float:
    """Evaluates a loss weight at the quality of each image.

    Args:
        weight: one number; or two positive numbers at quality 1 and 100, interpolated geometrically.
        quality: qualities `[N]` in [1, 100]; may be None if `weight` is one number.

    Returns:
        `weight` if it is one number, else the weights `[N]`.

    Raises:
        ValueError: `weight` has two numbers and `quality` is None.
    """
    if isinstance(weight, float | int):
        return weight
    if quality is None:
        raise ValueError("quality: must be given for a weight of two numbers")
    low, high = weight
    return low * torch.pow(high / low, (quality - 1) / (MAX_QUALITY - 1))


def spread_qualities(first: float, n: int, device: torch.device) -> Tensor:
    """Returns n evenly spaced qualities in [1, 100), float32 `[n]`.

    Args:
        first: offset in [0, 1) of the first one in the range; the following ones wrap around.
        n: number of qualities.
        device: device of the result.
    """
    places = (first + torch.arange(n, dtype=torch.float64, device=device) / n) % 1
    return (1 + (MAX_QUALITY - 1) * places).float()
