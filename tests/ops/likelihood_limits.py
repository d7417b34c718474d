"""Bits and derivatives for NaN or infinite scales and residuals; the same for the CPU, Triton and the reference."""

from itertools import product
from math import inf, isfinite, isinf, isnan, nan

import torch
from torch import Tensor

RESIDUALS = (0.0, -0.0, 0.2, -0.49, 0.5, -3.0, 1e6, inf, -inf, nan)
SCALES = (0.11, 0.3, 1.0, 1.2, 300.0, inf, nan)


def points(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every pair of a residual and a scale, `[1, N]` each."""
    v, s = zip(*product(RESIDUALS, SCALES), strict=True)
    return torch.tensor([v], dtype=dtype), torch.tensor([s], dtype=dtype)


def limit(v: float, s: float) -> tuple[float, float, float] | None:
    """(bits, by_v, by_scale), or None if all are finite."""
    if isnan(v) or isnan(s) or (isinf(v) and isinf(s)):
        return nan, nan, nan
    if isinf(s):  # P falls to 0 as 1 / s
        return inf, 0.0, 0.0
    if isinf(v):  # P falls to 0 as e^(-v^2 / 2 s^2)
        return inf, v, -inf
    return None


def assert_limits(v: Tensor, scale: Tensor, bits: Tensor, by_v: Tensor, by_scale: Tensor) -> None:
    """Asserts that every element equals its limit, or is finite if it has none."""
    columns = (t.double().flatten().tolist() for t in (v, scale, bits, by_v, by_scale))
    for at_v, at_scale, *found in zip(*columns, strict=True):
        expected = limit(at_v, at_scale)
        if expected is None:
            assert all(map(isfinite, found)) and found[0] >= 0, (at_v, at_scale, found)
        else:
            assert all(f == e or (isnan(f) and isnan(e)) for f, e in zip(found, expected, strict=True)), (at_v, at_scale, found)


def nans(dtype: torch.dtype) -> Tensor:
    """NaNs with several payloads and both signs, `[1, 6]`, which bit manipulation may turn into numbers."""
    integer, quiet = {
        torch.float16: (torch.int16, 0x7E00),
        torch.bfloat16: (torch.int16, 0x7FC0),
        torch.float32: (torch.int32, 0x7FC00000),
        torch.float64: (torch.int64, 0x7FF8 << 48),
    }[dtype]
    positive = torch.tensor([[quiet, quiet | 1, torch.iinfo(integer).max]], dtype=integer)
    return torch.cat([positive, positive | torch.iinfo(integer).min], 1).view(dtype)
