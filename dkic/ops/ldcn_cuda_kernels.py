"""Which of ldcn's CUDA kernels serve a call: the rules of csrc/cuda/ldcn_cuda_warp_plan.h, which the tests compare with these."""

import torch
from torch import Tensor

from dkic.ops.deform_arguments import Sizes

_VECTOR_BYTES = 16
_LANES = 8  # that share a position in a warp kernel, each with a vector
_WINDOW_DEPTHS = (16, 24, 32)
_CHANNELS_LAST = "give it in torch.channels_last"


def explain(x: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: Sizes, stride: Sizes) -> str:
    """Kernels of the forward and of each gradient, one a line; a line with a general kernel gives the reason and the fix.

    Arguments are those of `dkic.ops.ldcn`, on any device. The gradient of y is assumed to have the layout of y.
    """
    forward = _general_because(x, offset, mask, kernel_size)
    samples = forward or _general_samples_because(x, offset, kernel_size)
    scatter = _general_scatter_because(x, offset, mask, kernel_size, stride)
    lines = ("forward", "warp", forward), ("gradients of offset and mask", "warp", samples), ("gradient of x", "window", scatter)
    return "\n".join(
        f"{what}: {f'general kernel, because {reason}' if reason else f'{fast} kernel'}" for what, fast, reason in lines
    )


def _depth(x: Tensor, offset: Tensor, kernel_size: Sizes) -> int:
    """Channels of a group."""
    return x.shape[1] // (offset.shape[1] // (2 * kernel_size[0] * kernel_size[1]))


def _general_because(x: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: Sizes) -> str | None:
    return _unread_because(x, offset, mask, kernel_size) or _no_vectors_because(
        x, offset, kernel_size, _VECTOR_BYTES // x.itemsize
    )


def _unread_because(x: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: Sizes) -> str | None:
    """Why no warp kernel is compiled for the types and the kernel size, or can't read the layouts of offset and mask."""
    if kernel_size not in ((3, 3), (5, 5)):
        return f"kernel_size is {kernel_size[0]}x{kernel_size[1]}; warp kernels exist for 3x3 and 5x5"
    if x.dtype == torch.float64:
        return "x is float64; warp kernels exist for float32, float16 and bfloat16"
    if offset.dtype not in (x.dtype, torch.float32):
        return "offset has another dtype than x; give it in x's dtype or float32"
    if mask is not None and mask.dtype != offset.dtype:
        return "mask has another dtype than offset; convert one"
    for name, t in (("offset", offset), ("mask", mask)):
        if t is not None and t.stride(1) != 1:
            return f"{name} does not have its channels adjacent in memory; {_CHANNELS_LAST}"
    if any(offset.stride(d) % 2 for d in (0, 2, 3)) or offset.data_ptr() % (2 * offset.itemsize):
        return "dy and dx of offset are not aligned to the size of both; copy it"
    if any(t is not None and _end(t) >= 2**32 for t in (offset, mask)):
        return "offset or mask has too many elements for 32-bit indices; give a smaller batch"
    return None


def _no_vectors_because(x: Tensor, offset: Tensor, kernel_size: Sizes, vector: int) -> str | None:
    depth = _depth(x, offset, kernel_size)
    if depth % vector:
        return f"a group has {depth} channels; a multiple of {vector} is needed for {str(x.dtype)[6:]}"
    if x.stride(1) == 1 and (any(x.stride(d) % vector for d in (0, 2, 3)) or x.data_ptr() % (vector * x.itemsize)):
        return f"the pixels of x are not aligned to {vector} channels; copy it"
    if max(_end(x), x.shape[0] * x.shape[1] * offset.shape[2] * offset.shape[3]) >= 2**32 * vector:
        return "x or y has too many elements for 32-bit indices; give a smaller batch"
    return None


def _general_samples_because(x: Tensor, offset: Tensor, kernel_size: Sizes) -> str | None:
    most = _LANES * _VECTOR_BYTES // x.itemsize
    depth = _depth(x, offset, kernel_size)
    if depth > most:
        return f"a group has {depth} channels; at most {most} are summed for {str(x.dtype)[6:]}"
    return None


def _general_scatter_because(x: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: Sizes, stride: Sizes) -> str | None:
    if torch.are_deterministic_algorithms_enabled():
        return "torch.use_deterministic_algorithms is on; the window kernel adds in any order"
    if reason := _unread_because(x, offset, mask, kernel_size):
        return reason
    depth = _depth(x, offset, kernel_size)
    if kernel_size != (3, 3) or stride != (1, 1) or depth not in _WINDOW_DEPTHS:
        depths = ", ".join(map(str, _WINDOW_DEPTHS))
        return f"a group has {depth} channels; the window kernel exists for 3x3 taps, stride 1 and {depths} channels"
    return _no_vectors_because(x, offset, kernel_size, 4)


def _end(t: Tensor) -> int:
    """Elements from the first to the last in memory; of x that is copied, those of the copy."""
    strides = t.stride() if t.stride(1) == 1 else torch.empty(t.shape, device="meta", memory_format=torch.channels_last).stride()
    return sum((size - 1) * stride for size, stride in zip(t.shape, strides, strict=True)) + 1
