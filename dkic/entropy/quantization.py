"""How numbers become symbols: rounding, the grid of means and the grid of scales."""

import math

import torch
from torch import Tensor

from dkic.entropy.tables import SCALES

SCALE_INDEX_MAX = len(SCALES) - 1
_LOG_FIRST = math.log(SCALES[0])
_LOG_STEP = math.log(SCALES[-1] / SCALES[0]) / SCALE_INDEX_MAX

# Coded means are multiples of 1/64: fine enough that rounding them costs no measurable rate, coarse enough that the float64
# network behind them, which errs by 1e-13 between machines, has one chance in 10^11 a symbol to land on the other side.
MEAN_STEPS = 64


def scale_of_index(index: Tensor) -> Tensor:
    """Scale of a real-valued table index in [0, 63]."""
    return torch.exp(index * _LOG_STEP + _LOG_FIRST)


def round_ste(t: Tensor) -> Tensor:
    """Round to nearest even; the gradient passes straight through."""
    return t + (t.round() - t).detach()


def coded_mean(mean: Tensor) -> Tensor:
    """The mean that encoder and decoder use: the nearest multiple of 1/64."""
    return (mean * MEAN_STEPS).round() / MEAN_STEPS


def coded_index(scale_index: Tensor) -> Tensor:
    """The table index, uint8: the nearest scale in log."""
    return scale_index.clamp(0, SCALE_INDEX_MAX).round().to(torch.uint8)
