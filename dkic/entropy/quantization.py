"""How numbers become symbols: rounding, and the grid of scales."""

import math

import torch
from torch import Tensor

# 64 scales, log-spaced from 0.11 (a bin that is almost certain) to 256, as CompressAI's and most codecs since.
SCALE_MIN, SCALE_MAX, SCALE_COUNT = 0.11, 256.0, 64
SCALE_INDEX_MAX = SCALE_COUNT - 1
_LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / SCALE_INDEX_MAX


def scale_of_index(index: Tensor) -> Tensor:
    """Scale of a real-valued table index in [0, 63]."""
    return torch.exp(index * _LOG_STEP + math.log(SCALE_MIN))


def round_ste(t: Tensor) -> Tensor:
    """Round to nearest even; the gradient passes straight through."""
    return t + (t.round() - t).detach()
