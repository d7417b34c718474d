"""Quantization of latents: rounding, coded means and coded scales."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dkic.entropy.tables import SCALES
from dkic.errors import DkicError

SCALE_INDEX_MAX = len(SCALES) - 1
_LOG_FIRST = math.log(SCALES[0])
NO_SCALE = "model: its scales are NaN, as of broken weights; use other weights"
INDEX_LOG_STEP = math.log(SCALES[-1] / SCALES[0]) / SCALE_INDEX_MAX  # from one scale to the next

# Coded means are multiples of 1/64. Rounding them costs no measurable rate, and float64 differences of 1e-13 between machines
# change a rounded mean with a probability of 1e-11 per symbol.
MEAN_STEPS = 64
# Variable-rate models: the highest quality, and the number of operating points from one quality to the next.
MAX_QUALITY, PARTS = 100, 16
# In 64ths, part of the file format: 64 * exp(qstep * INDEX_LOG_STEP), rounded.
_QSTEP_SIZES = (24, 27, 31, 35, 39, 44, 50, 57, 64, 72, 82, 93, 105, 118, 134, 151, 171)


def scale_of_index(index: Tensor) -> Tensor:
    """Scales of real-valued table indexes in [0, 63], of the same shape."""
    return torch.exp(index * INDEX_LOG_STEP + _LOG_FIRST)


def coded_mean(mean: Tensor) -> Tensor:
    """The means that encoder and decoder use: the nearest multiples of 1/64."""
    return (mean * MEAN_STEPS).round() / MEAN_STEPS


def qstep_size(qstep: int) -> float:
    """Quantization step of y: 1.131 ** qstep (qstep -8 to 8), rounded to a multiple of 1/64; 1 for qstep 0.

    1.131 is the ratio of neighboring scales, so a coarser quantization shifts all table indexes by the same number. A multiple of
    1/64 keeps y_hat a multiple of 1/64, as means are.
    """
    return _QSTEP_SIZES[qstep + 8] / MEAN_STEPS


class Quantizer(NamedTuple):
    """Quantizer of the latent: symbols are round((y - mean) / size), and table indexes are reduced by `offset`.

    Each is a number, or a tensor `[N or 1, channels, 1, 1]`; offset is approximately log(size) / INDEX_LOG_STEP.
    """

    size: float | Tensor = 1.0
    offset: float | Tensor = 0.0

    def of(self, channels: slice) -> "Quantizer":
        """The quantizer of a slice of the channels."""
        return Quantizer(*(value[:, channels] if isinstance(value, Tensor) else value for value in self))


def nearest_index(scale_index: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """The table index, in the dtype of scale_index: the nearest scale in log, for quantized symbols. NaN stays NaN."""
    # Clamped to the tables first: values below them were not trained to be a certain index.
    return (scale_index.clamp(0, SCALE_INDEX_MAX) - offset).clamp(0, SCALE_INDEX_MAX).round()


def coded_index(scale_index: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """`nearest_index` as uint8. Raises DkicError if scale_index is NaN."""
    index = nearest_index(scale_index, offset)
    if index.isnan().any():
        raise DkicError(NO_SCALE)
    return index.to(torch.uint8)
