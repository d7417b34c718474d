"""Triton kernels of the im2col path of deform_conv2d: samples of a block of output pixels, which cuBLAS multiplies.

s: SampleArguments. Columns are [pixels of the block, weight groups, taps, DEPTH], with DEPTH channels per weight group; `first`
is the first pixel of the block. A program computes `tap_count` taps of BLOCK_P pixels in one offset group of GROUP_DEPTH
channels.
"""

import triton
import triton.language as tl

from dkic.ops.triton.bilinear import blend, corner_weights, corners_of, pixels_of, store_sample_gradients, tap_of
from dkic.ops.triton.sample_gradients import add_channels


@triton.jit
def place_of(s, first, end, groups, tap_count, BLOCK_P: tl.constexpr, INDEX: tl.constexpr):
    """(first tap, offset group, row of the columns, *pixels_of(...)) of a program; pixels >= `end` do not exist."""
    parts = tl.cdiv(s.kernel[0] * s.kernel[1], tap_count)
    rest = tl.program_id(0) // parts
    tile = rest // groups
    p, n, oh, ow, exists = pixels_of(s, first + tile.to(INDEX) * BLOCK_P, BLOCK_P, INDEX)
    row = p - first
    return (tl.program_id(0) - rest * parts) * tap_count, rest - tile * groups, row, p, n, oh, ow, exists & (p < end)


@triton.jit
def columns_at(row, c, tap, taps, channels, DEPTH: tl.constexpr):
    """Element indexes in the columns of a tap, `[pixels, channels]`."""
    column = (c // DEPTH) * (taps * DEPTH) + tap * DEPTH + c % DEPTH
    return row[:, None] * (taps * channels) + column[None, :]


@triton.jit
def write_columns(
    s,
    columns,
    first,
    end,
    groups,
    tap_count,
    DEPTH: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):
    taps = s.kernel[0] * s.kernel[1]
    first_tap, group, row, p, n, oh, ow, exists = place_of(s, first, end, groups, tap_count, BLOCK_P, INDEX)
    for tap in range(first_tap, tl.minimum(first_tap + tap_count, taps)):
        sy, sx, fy, fx, m, inside = tap_of(s, n, oh, ow, exists, (group * taps + tap).to(INDEX), tap, TYPE)
        at = corners_of(n, sy, sx, s.x_stride, s.unit)
        weights = corner_weights(fy, fx, m, inside)
        for begin in range(0, GROUP_DEPTH, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            c_exists = c < GROUP_DEPTH
            c += group * GROUP_DEPTH
            samples = blend(s.x, at, weights, inside, c, c_exists, TYPE)
            to = columns + columns_at(row, c, tap, taps, groups * GROUP_DEPTH, DEPTH)
            tl.store(to, samples.to(columns.dtype.element_ty), mask=exists[:, None] & c_exists[None, :])


@triton.jit
def backward_samples(
    s,
    grad_columns,
    to,
    grad_offset,
    grad_mask,
    first,
    end,
    groups,
    tap_count,
    DEPTH: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Gradients of x, offset and mask from the gradient of the columns. to: SumArguments for the gradient of x, or None.

    For a position at exactly -1, the corners at 0 are read for the gradient of offset. They contribute 0 times their value to the
    gradients of x and mask: NaN if the value is not finite.
    """
    NEED_DOTS: tl.constexpr = grad_offset is not None or grad_mask is not None
    taps = s.kernel[0] * s.kernel[1]
    first_tap, group, row, p, n, oh, ow, exists = place_of(s, first, end, groups, tap_count, BLOCK_P, INDEX)
    for tap in range(first_tap, tl.minimum(first_tap + tap_count, taps)):
        channel = (group * taps + tap).to(INDEX)
        sy, sx, fy, fx, m, inside = tap_of(s, n, oh, ow, exists, channel, tap, TYPE, EDGE=True)
        dot00 = tl.zeros((BLOCK_P,), TYPE)
        dot01, dot10, dot11 = dot00, dot00, dot00
        for begin in range(0, GROUP_DEPTH, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            c_exists = c < GROUP_DEPTH
            c += group * GROUP_DEPTH
            grad = grad_columns + columns_at(row, c, tap, taps, groups * GROUP_DEPTH, DEPTH)
            grad = tl.load(grad, mask=exists[:, None] & c_exists[None, :], other=0.0)
            dots = dot00, dot01, dot10, dot11
            tap_place = sy, sx, fy, fx, m
            dot00, dot01, dot10, dot11 = add_channels(s, to, dots, NEED_DOTS, n, tap_place, inside, grad, c, c_exists)
        number = p * groups * taps + channel
        store_sample_gradients(grad_offset, grad_mask, number, dot00, dot01, dot10, dot11, fy, fx, m, exists)
