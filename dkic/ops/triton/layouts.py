"""Memory layouts of images for Triton kernels: channels side by side."""

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from dkic.ops.memory_format import empty_like_format, suggest_memory_format


def pixel_strides(t: Tensor) -> tuple[int, int, int]:
    """0 where there is one alone: a view of a large tensor may say anything there, and Triton 3.6 fails at 64 bits among 32."""
    return tuple(t.stride(d) if t.shape[d] > 1 else 0 for d in (0, 2, 3))


def index_of(*tensors: Tensor | None):
    """The type that counts elements: also of tiles beyond a tensor's end, and of gradients, whose elements all differ."""
    present = [t for t in tensors if t is not None]
    last = max(sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) for t in present)
    return tl.int64 if max(last, *(t.numel() for t in present)) >= 2**30 else tl.int32


def channels_adjacent(t: Tensor) -> Tensor:
    """t, or a copy that is channels_last."""
    return t if t.stride(1) == 1 else t.contiguous(memory_format=torch.channels_last)


def as_laid_out(nhwc: Tensor, like: Tensor) -> Tensor:
    """nhwc where `like` is channels_last, else a contiguous copy."""
    if suggest_memory_format(like) == torch.channels_last:
        return nhwc
    return empty_like_format(like, nhwc.shape, nhwc.dtype).copy_(nhwc)


def empty_nhwc(like: Tensor, shape: Sequence[int] | None) -> Tensor:
    """Without a shape, a vector of no numbers."""
    if shape is None:
        return like.new_empty(0)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
