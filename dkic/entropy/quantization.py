"""How numbers become symbols: rounding, the grid of means and the grid of scales."""

import enum
import math
from typing import NamedTuple

import torch
from torch import Tensor

from dkic.entropy.tables import SCALES
from dkic.errors import DkicError

SCALE_INDEX_MAX = len(SCALES) - 1
_LOG_FIRST = math.log(SCALES[0])
INDEX_LOG_STEP = math.log(SCALES[-1] / SCALES[0]) / SCALE_INDEX_MAX  # from one scale to the next

# Coded means are multiples of 1/64: fine enough that rounding them costs no measurable rate, coarse enough that the float64
# network behind them, which errs by 1e-13 between machines, has one chance in 10^11 a symbol to land on the other side.
MEAN_STEPS = 64
# Of a variable-rate model: its qualities are 1 to this, with so many operating points from one to the next.
MAX_QUALITY, PARTS = 100, 16
# In 64ths, part of the file format: 64 * exp(qstep * INDEX_LOG_STEP), rounded.
_QSTEP_SIZES = (24, 27, 31, 35, 39, 44, 50, 57, 64, 72, 82, 93, 105, 118, 134, 151, 171)


class Arithmetic(enum.IntEnum):
    """How the entropy model is evaluated, as a .dkic file's header states it."""

    FLOAT64 = 1  # in float64, means and scale indexes rounded to their grids: alike everywhere in practice
    EXACT = 2  # by the integers of dkic.quantized: alike everywhere by proof

    @property
    def dtype(self) -> torch.dtype:
        """Of z_hat, y_hat and all between them."""
        return torch.float64 if self == Arithmetic.FLOAT64 else torch.float32

    def __str__(self) -> str:
        return {1: "float64-1", 2: "exact-1"}[self]


def arithmetic_name(number: int) -> str:
    """Of what a header states, whether or not this dkic knows it."""
    return str(Arithmetic(number)) if number in list(Arithmetic) else f"number {number}, unknown to this dkic"


def scale_of_index(index: Tensor) -> Tensor:
    """Scale of a real-valued table index in [0, 63]."""
    return torch.exp(index * INDEX_LOG_STEP + _LOG_FIRST)


def coded_mean(mean: Tensor) -> Tensor:
    """The mean that encoder and decoder use: the nearest multiple of 1/64."""
    return (mean * MEAN_STEPS).round() / MEAN_STEPS


def qstep_size(qstep: int) -> float:
    """What a symbol of y counts for: 1 where qstep (-8 to 8) is 0, else the nearest multiple of 1/64 to 1.131 to its power.

    1.131 is the ratio of neighbouring scales, so that a latent quantized more coarsely has all its scales the same number of
    tables further down. A multiple of 1/64, so that y_hat stays on the grid of means.
    """
    return _QSTEP_SIZES[qstep + 8] / MEAN_STEPS


class Quantizer(NamedTuple):
    """How the latent is quantized: symbols are round((y - mean) / size), and scales are taken `offset` tables further down.

    Each is a number, or a tensor `[N or 1, channels, 1, 1]`; offset is log(size) / INDEX_LOG_STEP, nearly.
    """

    size: float | Tensor = 1.0
    offset: float | Tensor = 0.0

    def of(self, channels: slice) -> "Quantizer":
        """The part of a slice of the channels."""
        return Quantizer(*(value[:, channels] if isinstance(value, Tensor) else value for value in self))


def nearest_index(scale_index: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """The table index, in the dtype of scale_index: the nearest scale in log, of quantized symbols. NaN stays."""
    # Within the tables first: what lies below them was never trained to be any one index.
    return (scale_index.clamp(0, SCALE_INDEX_MAX) - offset).clamp(0, SCALE_INDEX_MAX).round()


def coded_index(scale_index: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """`nearest_index` as uint8. Raises DkicError where scale_index is NaN, which has no integer."""
    index = nearest_index(scale_index, offset)
    if index.isnan().any():
        raise DkicError("the model's scales are not numbers; its weights are broken")
    return index.to(torch.uint8)
