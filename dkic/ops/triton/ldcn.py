"""dkic::ldcn and its backward as Triton kernels, for GPUs that the CUDA kernels are not built for.

`forward` and `backward` have the schemas of dkic/ops/schemas.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.memory_format import gradient_like
from dkic.ops.triton import ldcn_kernels as kernels
from dkic.ops.triton.image_sums import ImageSums, fixed_powers, largest
from dkic.ops.triton.layouts import as_laid_out, channels_adjacent, empty_nhwc, index_of, pixel_strides

# Of a program. Channels that don't come in vectors take an address each: of more, registers spill.
PIXELS, MOST_CHANNELS, MOST_ODD_CHANNELS, WARPS = 32, 64, 16, 4


class Problem(NamedTuple):
    """The arguments that both launches share."""

    x: Tensor  # channels side by side
    offset: Tensor
    mask: Tensor | None
    kernel: tuple[int, ...]
    geometry: tuple[int, ...]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def groups(self) -> int:
        return self.offset.shape[1] // (2 * self.taps)

    @property
    def depth(self) -> int:
        """Channels of a group."""
        return self.x.shape[1] // self.groups

    @property
    def out_size(self) -> tuple[int, ...]:
        return tuple(self.offset.shape[2:])

    @property
    def pixels(self) -> int:
        return self.offset.shape[0] * math.prod(self.out_size)

    @property
    def sum_dtype(self) -> torch.dtype:
        return torch.float64 if self.x.dtype == torch.float64 else torch.float32

    @property
    def channels(self) -> int:
        """Of a program at a time."""
        most = MOST_ODD_CHANNELS if self.depth % 4 else MOST_CHANNELS
        return min(triton.next_power_of_2(self.depth), most)

    def sizes(self, *others: Tensor) -> dict[str, Any]:
        """others: the launch's tensors that are not the problem's."""
        return {
            "pixels": self.pixels,
            "size": tuple(self.x.shape[2:]),
            "out_size": self.out_size,
            "kernel": self.kernel,
            "geometry": self.geometry,
            "x_stride": pixel_strides(self.x),
            "offset_stride": self.offset.stride(),
            "mask_stride": (0,) * 4 if self.mask is None else self.mask.stride(),
            "groups": self.groups,
            "DEPTH": self.depth,
            "TYPE": tl.float64 if self.sum_dtype == torch.float64 else tl.float32,
            "BLOCK_P": PIXELS,
            "BLOCK_C": self.channels,
            "INDEX": index_of(self.x, self.offset, self.mask, *others),
            "num_warps": WARPS,
        }


def problem(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Problem:
    """RuntimeError where arguments would lead a kernel beyond its tensors: for callers past the op's own checks."""
    if any(t is not None and (t.dim() != 4 or t.device != x.device) for t in (x, offset, mask)):
        raise RuntimeError("ldcn: tensors must have 4 dimensions and one device")
    pairs = (kernel_size, 1), (stride, 1), (padding, 0), (dilation, 1)
    if any(len(pair) != 2 or min(pair) < least or max(pair) >= 2**24 for pair, least in pairs):
        raise RuntimeError("ldcn: kernel_size, stride, padding or dilation out of range")
    if max(x.shape[2:]) >= 2**24:
        raise RuntimeError("ldcn: height and width of x must be below 2^24")
    p = Problem(channels_adjacent(x), offset, mask, tuple(kernel_size), (*stride, *padding, *dilation))
    along = zip(x.shape[2:], kernel_size, stride, padding, dilation, strict=True)
    size = tuple((size + 2 * pad - dilate * (k - 1) - 1) // step + 1 for size, k, step, pad, dilate in along)
    fits = p.groups > 0 and x.shape[1] > 0 and x.shape[1] % p.groups == 0
    if not fits or p.out_size != size or offset.shape[:2] != (x.shape[0], p.groups * p.taps * 2):
        raise RuntimeError("ldcn: the shape of offset does not fit x")
    if mask is not None and mask.shape != (x.shape[0], p.groups * p.taps, *size):
        raise RuntimeError("ldcn: the shape of mask does not fit offset")
    return p


def forward(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """dkic::ldcn. RuntimeError: arguments that the op's Python checks would have refused."""
    p = problem(x, offset, mask, kernel_size, stride, padding, dilation)
    y = empty_nhwc(x, (x.shape[0], x.shape[1], *p.out_size))
    if p.pixels:
        programs = triton.cdiv(p.pixels, PIXELS) * p.groups * triton.cdiv(p.depth, p.channels)
        with torch.cuda.device_of(x):
            kernels.forward[(programs,)](p.x, p.offset, p.mask, y, **p.sizes(y))
    return as_laid_out(y, x)


def backward(
    grad_y: Tensor,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    need_x: bool,
    need_offset: bool,
    need_mask: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dkic::ldcn_backward. RuntimeError: arguments that the op itself would not pass."""
    p = problem(x, offset, mask, kernel_size, stride, padding, dilation)
    if grad_y.shape != (*x.shape[:2], *p.out_size) or (grad_y.dtype, grad_y.device) != (x.dtype, x.device):
        raise RuntimeError("ldcn_backward: grad_y must have the shape, dtype and device of ldcn's result")
    grad_y = channels_adjacent(grad_y)
    need_mask = need_mask and mask is not None
    grad_offset = empty_nhwc(offset, offset.shape if need_offset else None)
    grad_mask = empty_nhwc(offset if mask is None else mask, mask.shape if mask is not None and need_mask else None)
    sums = None
    with torch.cuda.device_of(x):
        if need_x:
            sums = ImageSums(p.x, p.sum_dtype, powers_of(p, grad_y) if deterministic and p.pixels else None)
        if p.pixels and (need_x or need_offset or need_mask):
            added = p.x if sums is None else sums.sums
            kernels.backward[(triton.cdiv(p.pixels, PIXELS) * p.groups * p.taps,)](
                grad_y,
                p.x,
                p.offset,
                p.mask,
                *((None,) * 4 if sums is None else sums.arguments),
                grad_offset if need_offset else None,
                grad_mask if need_mask else None,
                **p.sizes(grad_y, added),
                grad_stride=pixel_strides(grad_y),
                sum_stride=pixel_strides(added),
            )
        grad_x = gradient_like(x, False) if sums is None else as_laid_out(sums.total(), x)
    if need_offset:
        grad_offset = as_laid_out(grad_offset, offset)
    if mask is not None and need_mask:
        grad_mask = as_laid_out(grad_mask, mask)
    return grad_x, grad_offset, grad_mask


def powers_of(p: Problem, grad_y: Tensor) -> Tensor:
    """For the gradient of x: bounded by grad_y and mask, and a sample of every tap."""
    bounds = [largest(grad_y)] + ([] if p.mask is None else [largest(p.mask)])
    return fixed_powers(bounds, math.prod(p.out_size) * p.taps, p.x.dtype == torch.float64)
