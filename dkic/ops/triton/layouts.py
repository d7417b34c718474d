"""Memory layouts of images in Triton kernels: a channel stride of 1."""

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from dkic.ops.memory_format import empty_like_format, suggest_memory_format


def pixel_strides(t: Tensor) -> tuple[int, int, int]:
    """Strides (n, h, w); 0 for an axis of size 1.

    A view of a large tensor can have any stride there, and Triton 3.6 fails for a tuple of 32-bit and 64-bit integers.
    """
    return tuple(t.stride(d) if t.shape[d] > 1 else 0 for d in (0, 2, 3))


def index_of(*tensors: Tensor | None):
    """Integer type of element indexes, also for tiles past the end of a tensor and contiguous gradients of expanded tensors."""
    present = [t for t in tensors if t is not None]
    last = max(sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) for t in present)
    return tl.int64 if max(last, *(t.numel() for t in present)) >= 2**30 else tl.int32


def channels_adjacent(t: Tensor) -> Tensor:
    """t if its channel stride is 1, else a channels_last copy."""
    return t if t.stride(1) == 1 else t.contiguous(memory_format=torch.channels_last)


def as_laid_out(nhwc: Tensor, like: Tensor) -> Tensor:
    """nhwc if `like` is channels_last, else a contiguous copy."""
    if suggest_memory_format(like) == torch.channels_last:
        return nhwc
    return empty_like_format(like, nhwc.shape, nhwc.dtype).copy_(nhwc)


def empty_nhwc(like: Tensor, shape: Sequence[int] | None) -> Tensor:
    """An empty channels_last tensor; without a shape, a tensor of shape [0]."""
    if shape is None:
        return like.new_empty(0)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
