"""Triton kernels of ldcn. x and grad_y have a channel stride of 1 (other strides are (n, h, w)); y is contiguous NHWC.

s: SampleArguments. A program computes BLOCK_P pixels of one group of GROUP_DEPTH channels.
"""

import triton
import triton.language as tl

from dkic.ops.triton.bilinear import blend, corner_weights, corners_of, pixels_of, store_sample_gradients, tap_of
from dkic.ops.triton.sample_gradients import add_channels


@triton.jit
def forward(
    s,
    y,
    groups,
    GROUP_DEPTH: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """A program computes BLOCK_C channels of the group."""
    chunks: tl.constexpr = (GROUP_DEPTH + BLOCK_C - 1) // BLOCK_C
    rest = tl.program_id(0) // chunks
    c = (tl.program_id(0) - rest * chunks) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = rest // groups
    group = rest - tile * groups
    c_exists = c < GROUP_DEPTH
    c += group * GROUP_DEPTH
    p, n, oh, ow, exists = pixels_of(s, tile.to(INDEX) * BLOCK_P, BLOCK_P, INDEX)
    taps = s.kernel[0] * s.kernel[1]
    acc = tl.zeros((BLOCK_P, BLOCK_C), TYPE)
    for tap in range(0, taps):
        sy, sx, fy, fx, m, inside = tap_of(s, n, oh, ow, exists, (group * taps + tap).to(INDEX), tap, TYPE)
        at = corners_of(n, sy, sx, s.x_stride, s.unit)
        acc += blend(s.x, at, corner_weights(fy, fx, m, inside), inside, c, c_exists, TYPE)
    to = y + p[:, None] * (groups * GROUP_DEPTH) + c[None, :]
    tl.store(to, acc.to(y.dtype.element_ty), mask=exists[:, None] & c_exists[None, :])


@triton.jit
def backward(
    s,
    grad_y,
    grad_stride,
    to,
    grad_offset,
    grad_mask,
    groups,
    GROUP_DEPTH: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """A program computes one tap. The gradients of offset and mask are contiguous NHWC; to: SumArguments for x's, or None."""
    NEED_DOTS: tl.constexpr = grad_offset is not None or grad_mask is not None
    taps = s.kernel[0] * s.kernel[1]
    rest = tl.program_id(0) // taps
    tap = tl.program_id(0) - rest * taps
    tile = rest // groups
    group = rest - tile * groups
    channel = (group * taps + tap).to(INDEX)
    p, n, oh, ow, exists = pixels_of(s, tile.to(INDEX) * BLOCK_P, BLOCK_P, INDEX)
    sy, sx, fy, fx, m, inside = tap_of(s, n, oh, ow, exists, channel, tap, TYPE)
    from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
    dot00 = tl.zeros((BLOCK_P,), TYPE)
    dot01, dot10, dot11 = dot00, dot00, dot00
    for begin in range(0, GROUP_DEPTH, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        c_exists = c < GROUP_DEPTH
        c += group * GROUP_DEPTH
        grad = tl.load(grad_y + (from_y[:, None] + c[None, :]), mask=exists[:, None] & c_exists[None, :], other=0.0).to(TYPE)
        dots = dot00, dot01, dot10, dot11
        tap_place = sy, sx, fy, fx, m
        dot00, dot01, dot10, dot11 = add_channels(s, to, dots, NEED_DOTS, n, tap_place, inside, grad, c, c_exists)
    number = p * groups * taps + channel
    store_sample_gradients(grad_offset, grad_mask, number, dot00, dot01, dot10, dot11, fy, fx, m, exists)
