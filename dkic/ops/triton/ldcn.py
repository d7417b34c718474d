"""Triton kernels of dkic::ldcn and its backward, for GPUs that the CUDA kernels are not built for.

`forward` and `backward` have the schemas of dkic/ops/schemas.py.
"""

import math

import torch
from torch import Tensor

from dkic.ops.memory_format import gradient_like
from dkic.ops.triton import ldcn_kernels as kernels
from dkic.ops.triton.grid import cdiv, next_power_of_2
from dkic.ops.triton.image_sums import ImageSums, fixed_powers, largest
from dkic.ops.triton.layouts import as_laid_out, channels_adjacent, empty_nhwc, pixel_strides
from dkic.ops.triton.samples import Samples, samples_of

# Per program. Channels without vectorized loads need one address each; more than MOST_ODD_CHANNELS spill registers.
PIXELS, MOST_CHANNELS, MOST_ODD_CHANNELS, WARPS = 32, 64, 16, 4


def program_of(samples: Samples) -> dict[str, int]:
    """Block sizes and warps of a launch."""
    most = MOST_ODD_CHANNELS if samples.group_depth % 4 else MOST_CHANNELS
    channels = min(next_power_of_2(samples.group_depth), most)
    return {"GROUP_DEPTH": samples.group_depth, "BLOCK_P": PIXELS, "BLOCK_C": channels, "num_warps": WARPS}


def forward(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """dkic::ldcn. RuntimeError: an argument is invalid (for calls that bypass the public op)."""
    p = samples_of("ldcn", x, offset, mask, kernel_size, stride, padding, dilation)
    y = empty_nhwc(x, (x.shape[0], x.shape[1], *p.out_size))
    if p.pixels:
        program = program_of(p)
        programs = cdiv(p.pixels, PIXELS) * p.groups * cdiv(p.group_depth, program["BLOCK_C"])
        with torch.cuda.device_of(x):
            kernels.forward[(programs,)](p.arguments, y, p.groups, **p.types(y), **program)
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
    """dkic::ldcn_backward. RuntimeError: an argument is invalid (for calls that bypass autograd)."""
    p = samples_of("ldcn", x, offset, mask, kernel_size, stride, padding, dilation)
    if grad_y.shape != (*x.shape[:2], *p.out_size) or (grad_y.dtype, grad_y.device) != (x.dtype, x.device):
        raise RuntimeError("ldcn_backward: grad_y must have the shape, dtype and device of ldcn's result")
    grad_y = channels_adjacent(grad_y)
    wanted_mask = mask if need_mask else None
    grad_offset = empty_nhwc(offset, offset.shape if need_offset else None)
    grad_mask = empty_nhwc(offset if mask is None else mask, None if wanted_mask is None else wanted_mask.shape)
    sums = None
    with torch.cuda.device_of(x):
        if need_x:
            sums = ImageSums(p.x, p.sum_dtype, powers_of(p, grad_y) if deterministic and p.pixels else None)
        if p.pixels and (need_x or need_offset or wanted_mask is not None):
            kernels.backward[(cdiv(p.pixels, PIXELS) * p.groups * p.taps,)](
                p.arguments,
                grad_y,
                pixel_strides(grad_y),
                None if sums is None else sums.arguments,
                grad_offset if need_offset else None,
                None if wanted_mask is None else grad_mask,
                p.groups,
                **p.types(grad_y, p.x if sums is None else sums.sums),
                **program_of(p),
            )
        grad_x = gradient_like(x, False) if sums is None else as_laid_out(sums.total(), x)
    if need_offset:
        grad_offset = as_laid_out(grad_offset, offset)
    if wanted_mask is not None:
        grad_mask = as_laid_out(grad_mask, wanted_mask)
    return grad_x, grad_offset, grad_mask


def powers_of(p: Samples, grad_y: Tensor) -> Tensor:
    """Scaling of the integer sums for the gradient of x, from the maxima of grad_y and mask and the number of samples."""
    bounds = [largest(grad_y)] + ([] if p.mask is None else [largest(p.mask)])
    return fixed_powers(bounds, math.prod(p.out_size) * p.taps, p.x.dtype == torch.float64)
