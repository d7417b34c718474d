"""Arguments shared by the deformable ops: an image sampled at the taps of a kernel, each with an offset and a mask weight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from dkic.ops.deform_arguments import check_samples
from dkic.ops.triton.layouts import channels_adjacent, index_of, pixel_strides


class SampleArguments(NamedTuple):
    """Kernel argument of `Samples`.

    size: (height, width) of x; out_size: of the result. x_stride: (n, h, w); offset_stride and mask_stride: (n, c, h, w).
    """

    x: Tensor
    offset: Tensor
    mask: Tensor | None
    pixels: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]
    kernel: tuple[tl.constexpr, tl.constexpr]
    geometry: tuple[int, ...]
    x_stride: tuple[int, ...]
    unit: tl.constexpr  # common divisor of x's strides: a power of 2, at most 8
    offset_stride: tuple[int, ...]
    mask_stride: tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """The image of a deformable op and its sampling positions.

    x: the image, with a channel stride of 1. kernel: height and width. geometry: strides, paddings and dilations.
    """

    x: Tensor
    offset: Tensor
    mask: Tensor | None
    kernel: tuple[int, ...]
    geometry: tuple[int, ...]

    @cached_property
    def sum_dtype(self) -> torch.dtype:
        return torch.float64 if self.x.dtype == torch.float64 else torch.float32

    @cached_property
    def out_size(self) -> tuple[int, ...]:
        return tuple(self.offset.shape[2:])

    @cached_property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.offset.shape[0] * math.prod(self.out_size)

    @cached_property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @cached_property
    def groups(self) -> int:
        """Offset groups."""
        return self.offset.shape[1] // (2 * self.taps)

    @cached_property
    def group_depth(self) -> int:
        """Channels per offset group."""
        return self.x.shape[1] // self.groups

    @cached_property
    def arguments(self) -> SampleArguments:
        return SampleArguments(
            self.x,
            self.offset,
            self.mask,
            self.pixels,
            tuple(self.x.shape[2:]),
            self.out_size,
            (tl.constexpr(self.kernel[0]), tl.constexpr(self.kernel[1])),  # constexpr: kernels divide by them
            self.geometry,
            pixel_strides(self.x),
            tl.constexpr(math.gcd(8, *pixel_strides(self.x))),
            self.offset.stride(),
            (0,) * 4 if self.mask is None else self.mask.stride(),
        )

    def types(self, *others: Tensor) -> dict[str, Any]:
        """Launch options TYPE (of sums) and INDEX (of element indexes) for the samples and other tensors."""
        sums = tl.float64 if self.sum_dtype == torch.float64 else tl.float32
        return {"TYPE": sums, "INDEX": index_of(self.x, self.offset, self.mask, *others)}


def samples_of(
    op: str,
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Samples:
    """The samples of a call, checked again for calls that bypass the public op. Raises as `check_samples`."""
    sizes = [tuple(pair) for pair in (kernel, stride, padding, dilation)]
    if any(len(pair) != 2 for pair in sizes):
        raise RuntimeError(f"{op}: kernel size, stride, padding and dilation must be pairs, and are {sizes}")
    check_samples(op, ("input" if op == "deform_conv2d" else "x", x), offset, mask, *sizes)
    return Samples(channels_adjacent(x), offset, mask, sizes[0], (*stride, *padding, *dilation))
