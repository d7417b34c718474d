"""Symbols and table indexes of a latent, as an entropy coder with Gaussian tables takes them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops._gaussian_indexes import SCALE_COUNT, SCALE_FIRST, SCALE_LAST, edges_between
from dkic.ops._gaussian_likelihood import check_tensors
from dkic.ops.accepted_calls import accept, call_of, was_accepted
from dkic.ops.schemas import library

NO_TABLE = 255  # index of an element that can't be coded, of a GPU's kernel


def gaussian_symbols(
    y: Tensor,
    scale: Tensor,
    mean: Tensor | None = None,
    *,
    scales: Sequence[float] | Tensor | None = None,
    rule: Literal["nearest", "next_larger"] = "nearest",
) -> tuple[Tensor, Tensor]:
    """What is coded of a latent: its residuals, rounded, and which of the Gaussian tables each is coded with.

    Args:
        y: any shape, batch first; float32, float64, float16 or bfloat16.
        scale: standard deviations, in the shape of y.
        mean: in the shape of y; None means 0.
        scales, rule: the tables' standard deviations and how one is chosen, as for `gaussian_indexes`.

    Tensors may have any strides and different dtypes; no shape is broadcast. y - mean is worked out in float32, or in float64
    where one of the tensors is float64. Scales are compared in float64.

    Returns:
        symbols: round(y - mean), half to even, int32; index: uint8 (int32 for more than 256 scales), below the number of scales.
        Both are contiguous, in the shape of y.

    An element can't be coded if y - mean is not finite or beyond int32, or scale is NaN. The CPU raises RuntimeError. A GPU does
    not wait for its kernel: such an element gets the largest index of the dtype (255 of uint8), which entropy coders refuse.

    Raises:
        TypeError, ValueError: an argument is not as above, or there are 256 scales on a GPU; the message names it.
        RuntimeError: an element can't be coded (on the CPU), or the kernels for y's device are not built.
    """
    call = call_of("gaussian_symbols", y, scale, mean)
    if not was_accepted(call):
        check_tensors("gaussian_symbols", y, {"scale": scale, "mean": mean}, optional=("mean",))
        accept(call)
    edges = None if scales is None and rule == "nearest" else edges_between("gaussian_symbols", scales, rule)
    if edges is not None and len(edges) == NO_TABLE and y.device.type == "cuda":
        raise ValueError(
            "gaussian_symbols/scales: must not be 256 on a GPU, where index 255 marks what can't be coded; give fewer"
        )
    backends.check_runs("gaussian_symbols", y.device)
    symbols, index = torch.ops.dkic.gaussian_symbols(y, scale, mean, SCALE_FIRST, SCALE_LAST, SCALE_COUNT)
    if edges is None:
        return symbols, index
    uncodable, index = index == NO_TABLE, torch.ops.dkic.gaussian_indexes(scale, edges)
    if y.device.type == "cpu":
        return symbols, index
    return symbols, index.masked_fill(uncodable, torch.iinfo(index.dtype).max)


@torch.library.register_fake("dkic::gaussian_symbols", lib=library)
def _fake(y, scale, mean, scale_first, scale_last, scale_count):
    return y.new_empty(y.shape, dtype=torch.int32), y.new_empty(y.shape, dtype=torch.uint8)


@torch.library.impl("dkic::gaussian_symbols", "CUDA", lib=library)
def _cuda(*arguments):
    return backends.triton_kernels("gaussian_symbols").forward(*arguments)
