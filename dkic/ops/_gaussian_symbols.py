"""Symbols and table indexes of a latent, for an entropy coder with Gaussian frequency tables."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dkic.gaussian_scales import SCALE_COUNT, SCALE_FIRST, SCALE_LAST
from dkic.ops import backends
from dkic.ops._gaussian_indexes import gaussian_indexes
from dkic.ops._gaussian_likelihood import check_tensors
from dkic.ops.accepted_calls import accept, call_of, was_accepted
from dkic.ops.schemas import library

NO_TABLE = 255  # index of an element that cannot be coded; written by the GPU kernel


def gaussian_symbols(
    y: Tensor,
    scale: Tensor,
    mean: Tensor | None = None,
    *,
    scales: Sequence[float] | Tensor | None = None,
    rule: Literal["nearest", "next_larger"] = "nearest",
) -> tuple[Tensor, Tensor]:
    """Rounded residuals of a latent, and the index of the frequency table of each.

    Args:
        y: any shape, batch first; float32, float64, float16 or bfloat16.
        scale: standard deviations, in the shape of y.
        mean: in the shape of y; None means 0.
        scales, rule: standard deviations of the tables, and the rule that selects one, as in `gaussian_indexes`.

    Tensors can have any strides and different dtypes; shapes are not broadcast. y - mean is computed in float32, or in float64 if
    any tensor is float64. Scales are compared in float64.

    Returns:
        symbols: round(y - mean), half to even, int32; index: uint8 (int32 for more than 256 scales), below the number of scales.
        Both are contiguous, in the shape of y.

    An element cannot be coded if y - mean is not finite or exceeds int32, or if scale is NaN. The CPU raises RuntimeError. The
    GPU does not synchronize to check: such an element has the largest index of the dtype (255 for uint8), which entropy coders
    reject.

    Raises:
        TypeError, ValueError: an argument is invalid, or there are 256 scales on a GPU; the message names it.
        RuntimeError: an element cannot be coded (on the CPU), or the kernels for y's device are not available.
    """
    call = call_of("gaussian_symbols", y, scale, mean)
    if not was_accepted(call):
        check_tensors("gaussian_symbols", y, {"scale": scale, "mean": mean}, optional=("mean",))
        accept(call)
    backends.check_runs("gaussian_symbols", y.device)
    symbols, index = torch.ops.dkic.gaussian_symbols(y, scale, mean, SCALE_FIRST, SCALE_LAST, SCALE_COUNT)
    if scales is None and rule == "nearest":
        return symbols, index
    uncodable, index = index == NO_TABLE, gaussian_indexes(scale, scales, rule)
    if y.device.type == "cpu":
        return symbols, index
    if scales is not None and len(scales) == NO_TABLE + 1:
        raise ValueError(
            "gaussian_symbols/scales: must not be 256 on a GPU, where index 255 marks what can't be coded; give fewer"
        )
    return symbols, index.masked_fill(uncodable, torch.iinfo(index.dtype).max)


@torch.library.register_fake("dkic::gaussian_symbols", lib=library)
def _fake(y, scale, mean, scale_first, scale_last, scale_count):
    return y.new_empty(y.shape, dtype=torch.int32), y.new_empty(y.shape, dtype=torch.uint8)


@torch.library.impl("dkic::gaussian_symbols", "CUDA", lib=library)
def _cuda(*arguments):
    return backends.triton_kernels("gaussian_symbols").forward(*arguments)
