"""Indexes of the Gaussian frequency tables that an entropy coder uses for given scales."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from dkic.gaussian_scales import SCALE_COUNT, SCALE_FIRST, SCALE_LAST
from dkic.ops import backends
from dkic.ops.schemas import library

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
RULES = ("nearest", "next_larger")
MOST_SCALES = 65536


def gaussian_indexes(
    scale: Tensor, scales: Sequence[float] | Tensor | None = None, rule: Literal["nearest", "next_larger"] = "nearest"
) -> Tensor:
    """Index of the frequency table of each element of a latent.

    Args:
        scale: standard deviations `[N, ...]`; float32, float64, float16 or bfloat16, any strides.
        scales: standard deviations of the tables, 2 to 65536 values, positive, finite and sorted; None: dkic's tables
            (`dkic.entropy.tables.SCALES`, 64 values from 0.11 to 256).
        rule: "nearest": the table with the nearest scale in log space, the smaller one for a tie; "next_larger": the first table
            with a scale >= the element's (CompressAI's `GaussianConditional.build_indexes`). Values out of range use the first
            or the last table.

    NaN has the last index.

    Returns:
        uint8, or int32 for more than 256 tables, in the shape of scale, contiguous.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: the CPU kernels are not available; the message explains how to fix it.
    """
    if not isinstance(scale, Tensor) or scale.dtype not in FLOATS:
        kind = scale.dtype if isinstance(scale, Tensor) else type(scale).__name__
        raise TypeError(f"gaussian_indexes/scale: must be a tensor of floating-point numbers, and is {kind}; convert it")
    if scale.dim() == 0:
        raise ValueError("gaussian_indexes/scale: has no batch dimension; give [N, ...]")
    edges = edges_between(scales, rule)
    if scale.device.type == "cpu" and not torch.compiler.is_compiling() and (reason := backends.load_cpu()):
        raise RuntimeError(reason)
    return torch.ops.dkic.gaussian_indexes(scale, edges)


def edges_between(scales: Sequence[float] | Tensor | None, rule: str) -> list[float]:
    """Upper bounds, inclusive, of the scales of each index except the last."""
    if rule not in RULES:
        raise ValueError(f"gaussian_indexes/rule: must be one of {', '.join(RULES)}, and is {rule!r}; choose one")
    low, step = math.log(SCALE_FIRST), math.log(SCALE_LAST / SCALE_FIRST) / (SCALE_COUNT - 1)
    if scales is None:
        scales = [math.exp(low + i * step) for i in range(SCALE_COUNT)]
        if rule == "nearest":
            return [math.exp(low + (i + 0.5) * step) for i in range(SCALE_COUNT - 1)]
    scales = scales.tolist() if isinstance(scales, Tensor) else [float(s) for s in scales]
    if not isinstance(scales, list) or not 2 <= len(scales) <= MOST_SCALES:
        count = len(scales) if isinstance(scales, list) else 1
        raise ValueError(f"gaussian_indexes/scales: must be 2 to {MOST_SCALES} numbers, and are {count}; give fewer tables")
    if not (scales[0] > 0 and scales[-1] < math.inf and all(a <= b for a, b in zip(scales, scales[1:], strict=False))):
        raise ValueError("gaussian_indexes/scales: must be positive, finite and sorted, and are not; sort them")
    if rule == "next_larger":
        return scales[:-1]
    return [math.sqrt(a) * math.sqrt(b) for a, b in zip(scales, scales[1:], strict=False)]


@torch.library.register_fake("dkic::gaussian_indexes", lib=library)
def _fake(scale, edges):
    return scale.new_empty(scale.shape, dtype=_dtype(edges))


@torch.library.impl("dkic::gaussian_indexes", "CUDA", lib=library)
def _cuda(scale, edges):
    bounds = _bounds(tuple(edges), scale.device)
    return torch.bucketize(scale.contiguous().double(), bounds, out_int32=True).to(_dtype(edges))


@lru_cache(maxsize=64)
def _bounds(edges: tuple[float, ...], device: torch.device) -> Tensor:
    """Cached, because a host-to-device copy synchronizes and cannot be captured in a CUDA graph."""
    return torch.tensor(edges, dtype=torch.float64, device=device)


def _dtype(edges: list[float]) -> torch.dtype:
    return torch.uint8 if len(edges) < 256 else torch.int32
