"""Symbols and table indexes of a latent, as an entropy coder with Gaussian tables takes them."""

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops.gaussian_likelihood import check_tensors
from dkic.ops.schemas import library

# The tables' standard deviations, log-spaced: those of dkic.entropy.tables.SCALES.
SCALE_FIRST, SCALE_LAST, SCALE_COUNT = 0.11, 256.0, 64


def gaussian_symbols(y: Tensor, scale: Tensor, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is coded of a latent: its residuals, rounded, and which of the 64 Gaussian tables each is coded with.

    Args:
        y: any shape, batch first; float32, float64, float16 or bfloat16.
        scale: standard deviations, in the shape of y; the table is the one whose scale is nearest in log.
        mean: in the shape of y; None means 0.

    Tensors may have any strides and different dtypes; no shape is broadcast. y - mean is worked out in float32, or in float64
    where one of the tensors is float64. A scale is compared in float64 with the 63 middles, in log, between neighbouring
    tables' scales (`dkic.entropy.tables.SCALES`, 0.11 to 256); one on the middle belongs to the smaller table.

    Returns:
        symbols: round(y - mean), half to even, int32; index: uint8, 0 to 63. Both contiguous, in the shape of y.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: y - mean is not finite or beyond int32, or scale is NaN (to know it, a call on a GPU waits for its kernel);
            or the kernels for y's device are not built.
    """
    check_tensors("gaussian_symbols", y, {"scale": scale, "mean": mean}, optional=("mean",))
    if not torch.compiler.is_compiling() and (reason := backends.why_not("gaussian_symbols", y.device)):
        raise RuntimeError(reason)
    return torch.ops.dkic.gaussian_symbols(y, scale, mean, SCALE_FIRST, SCALE_LAST, SCALE_COUNT)


@torch.library.register_fake("dkic::gaussian_symbols", lib=library)
def _fake(y, scale, mean, scale_first, scale_last, scale_count):
    return y.new_empty(y.shape, dtype=torch.int32), y.new_empty(y.shape, dtype=torch.uint8)


@torch.library.impl("dkic::gaussian_symbols", "CUDA", lib=library)
def _cuda(*arguments):
    return backends.triton_kernels("gaussian_symbols").forward(*arguments)
