"""Fused Triton kernels of deform_conv2d in half precision: samples are computed in registers and multiplied on tensor cores.

s: SampleArguments. grad_y has a channel stride of 1, and y is contiguous NHWC. Channels are divided into runs of RUN channels, a
multiple of 8, each in one offset group and one weight group. The weight is [O, runs of a weight group, taps, RUN]. An output sums
over vectors of 8 channels in the order of a row of the weight; one matrix product uses VECTORS of them, from any runs and taps.

A program computes BLOCK_O + REST_O outputs, both powers of 2, or REST_O is 0: 192 = 128 + 64.
"""

import triton
import triton.language as tl

from dkic.ops.triton.bilinear import (
    corner_weights,
    corners_of,
    load_tap,
    pixels_of,
    place_tap,
    store_sample_gradients,
    tap_of,
)
from dkic.ops.triton.sample_gradients import add_channels


@triton.jit
def vectors_of(s, vector, group, runs, RUN: tl.constexpr, GROUP_DEPTH: tl.constexpr, INDEX: tl.constexpr):
    """(channel of x, channel of mask, tap, exists) for vectors of a weight group."""
    taps = s.kernel[0] * s.kernel[1]
    place = vector // (RUN // 8)  # (run, tap)
    run = place // taps
    tap = place - run * taps
    first = (group * runs + run) * RUN
    channel = first + (vector - place * (RUN // 8)) * 8
    return channel, (first // GROUP_DEPTH * taps + tap).to(INDEX), tap, run < runs


@triton.jit
def load_corners(s, n, oh, ow, exists, channel, tap, dy, dx, m):
    """Corner values `[pixels, vectors, 8]` and corner weights of taps from `load_tap`."""
    sy, sx, fy, fx, m, inside = place_tap(s, oh, ow, exists, tap, dy, dx, m, tl.float32)
    at = corners_of(n, sy, sx, s.x_stride, s.unit)
    i = tl.arange(0, 8)[None, None, :]
    v00 = tl.load(s.x + ((at[0] + channel)[:, :, None] + i), mask=inside[0][:, :, None], other=0.0)
    v01 = tl.load(s.x + ((at[1] + channel)[:, :, None] + i), mask=inside[1][:, :, None], other=0.0)
    v10 = tl.load(s.x + ((at[2] + channel)[:, :, None] + i), mask=inside[2][:, :, None], other=0.0)
    v11 = tl.load(s.x + ((at[3] + channel)[:, :, None] + i), mask=inside[3][:, :, None], other=0.0)
    return v00, v01, v10, v11, corner_weights(fy, fx, m, inside)


@triton.jit
def blend_corners(v00, v01, v10, v11, weights):
    """Samples `[pixels, 8 * vectors]`, rounded once."""
    sample = v00.to(tl.float32) * weights[0][:, :, None] + v01.to(tl.float32) * weights[1][:, :, None]
    sample = sample + v10.to(tl.float32) * weights[2][:, :, None]
    sample = sample + v11.to(tl.float32) * weights[3][:, :, None]
    return tl.reshape(sample.to(v00.dtype), (v00.shape[0], v00.shape[1] * v00.shape[2]))


@triton.jit
def multiply(columns, weight, row, k, k_exists, o, o_exists, acc):
    w = tl.load(weight + (o[None, :] * row + k[:, None]), mask=k_exists[:, None] & o_exists[None, :], other=0.0)
    return tl.dot(columns, w, acc)


@triton.jit
def store_outputs(y, bias, acc, p, exists, row, first, o, o_exists):
    if bias is not None:
        acc += tl.load(bias + first + o, mask=o_exists, other=0.0).to(tl.float32)[None, :]
    tl.store(y + (p[:, None] * row + first + o[None, :]), acc.to(y.dtype.element_ty), mask=exists[:, None] & o_exists[None, :])


@triton.jit
def forward(
    s,
    weight,
    bias,
    y,
    weight_groups,
    group_outputs,
    runs,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    REST_O: tl.constexpr,
    VECTORS: tl.constexpr,
    TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """A program computes BLOCK_P pixels by BLOCK_O + REST_O outputs of a weight group.

    Software pipelining: offsets are loaded two rounds ahead, corners one round ahead, before the product.
    """
    o_tiles = tl.cdiv(group_outputs, BLOCK_O + REST_O)
    rest = tl.program_id(0) // o_tiles
    first_o = (tl.program_id(0) - rest * o_tiles) * (BLOCK_O + REST_O)
    tile = rest // weight_groups
    group = rest - tile * weight_groups
    p, n, oh, ow, exists = pixels_of(s, tile.to(INDEX) * BLOCK_P, BLOCK_P, INDEX)
    n, oh, ow, here = n[:, None], oh[:, None], ow[:, None], exists[:, None]
    vectors = runs * s.kernel[0] * s.kernel[1] * (RUN // 8)
    row = vectors * 8
    o = (first_o + tl.arange(0, BLOCK_O)).to(INDEX)
    acc = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    if REST_O:
        rest_o = (first_o + BLOCK_O + tl.arange(0, REST_O)).to(INDEX)
        rest_acc = tl.zeros((BLOCK_P, REST_O), tl.float32)
    weight += group * group_outputs.to(INDEX) * row
    k = tl.arange(0, VECTORS * 8)

    vector = tl.arange(0, VECTORS)
    channel, at, tap, found = vectors_of(s, vector[None, :], group, runs, RUN, GROUP_DEPTH, INDEX)
    dy, dx, m = load_tap(s, n, oh, ow, here & found, at, tl.float32)
    v00, v01, v10, v11, weights = load_corners(s, n, oh, ow, here & found, channel, tap, dy, dx, m)
    columns = blend_corners(v00, v01, v10, v11, weights)
    channel, at, tap, found = vectors_of(s, (vector + VECTORS)[None, :], group, runs, RUN, GROUP_DEPTH, INDEX)
    dy, dx, m = load_tap(s, n, oh, ow, here & found, at, tl.float32)
    for begin in range(0, vectors, VECTORS):
        v00, v01, v10, v11, weights = load_corners(s, n, oh, ow, here & found, channel, tap, dy, dx, m)
        channel, at, tap, found = vectors_of(s, (begin + 2 * VECTORS + vector)[None, :], group, runs, RUN, GROUP_DEPTH, INDEX)
        dy, dx, m = load_tap(s, n, oh, ow, here & found, at, tl.float32)
        acc = multiply(columns, weight, row, begin * 8 + k, begin * 8 + k < row, o, o < group_outputs, acc)
        if REST_O:
            rest_acc = multiply(
                columns, weight, row, begin * 8 + k, begin * 8 + k < row, rest_o, rest_o < group_outputs, rest_acc
            )
        columns = blend_corners(v00, v01, v10, v11, weights)
    outputs = weight_groups * group_outputs
    store_outputs(y, bias, acc, p, exists, outputs, group * group_outputs, o, o < group_outputs)
    if REST_O:
        store_outputs(y, bias, rest_acc, p, exists, outputs, group * group_outputs, rest_o, rest_o < group_outputs)


@triton.jit
def backward_samples(
    s,
    weight,
    grad_y,
    grad_stride,
    to,
    grad_offset,
    grad_mask,
    groups,
    group_outputs,
    runs,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Gradients of x, offset and mask. A program computes one tap of BLOCK_P pixels, for all channels of an offset group.

    The gradient of the columns, grad_y times weight, is computed for BLOCK_C channels at a time. to: SumArguments for the
    gradient of x, or None. For a position at exactly -1, the corners at 0 are read for the gradient of offset. They contribute 0
    times their value to the gradients of x and mask: NaN if the value is not finite. (A mask for them would spill registers.)
    """
    NEED_DOTS: tl.constexpr = grad_offset is not None or grad_mask is not None
    taps = s.kernel[0] * s.kernel[1]
    rest = tl.program_id(0) // taps
    tap = tl.program_id(0) - rest * taps
    tile = rest // groups
    offset_group = rest - tile * groups
    p, n, oh, ow, exists = pixels_of(s, tile.to(INDEX) * BLOCK_P, BLOCK_P, INDEX)
    channel = (offset_group * taps + tap).to(INDEX)
    sy, sx, fy, fx, m, inside = tap_of(s, n, oh, ow, exists, channel, tap, tl.float32, EDGE=True)
    from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
    dot00 = tl.zeros((BLOCK_P,), tl.float32)
    dot01, dot10, dot11 = dot00, dot00, dot00
    for run in range(offset_group * (GROUP_DEPTH // RUN), (offset_group + 1) * (GROUP_DEPTH // RUN)):
        weight_group = run // runs
        for begin in range(0, RUN, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            c_exists = c < RUN
            grad = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            for begin_o in range(0, group_outputs, BLOCK_O):
                o = begin_o + tl.arange(0, BLOCK_O)
                o_exists = o < group_outputs
                o += weight_group * group_outputs
                g = tl.load(grad_y + (from_y[:, None] + o[None, :]), mask=exists[:, None] & o_exists[None, :], other=0.0)
                place = (o.to(INDEX) * runs + (run - weight_group * runs)) * taps + tap
                w = tl.load(weight + (place[:, None] * RUN + c[None, :]), mask=o_exists[:, None] & c_exists[None, :], other=0.0)
                grad = tl.dot(g, w, grad)
            c += run * RUN
            dots = dot00, dot01, dot10, dot11
            tap_place = sy, sx, fy, fx, m
            dot00, dot01, dot10, dot11 = add_channels(s, to, dots, NEED_DOTS, n, tap_place, inside, grad, c, c_exists)
    store_sample_gradients(grad_offset, grad_mask, p * groups * taps + channel, dot00, dot01, dot10, dot11, fy, fx, m, exists)


@triton.jit
def multiply_gradient(grad_y, from_y, exists, first, o, o_exists, columns, acc):
    g = tl.load(grad_y + (from_y[:, None] + (first + o)[None, :]), mask=exists[:, None] & o_exists[None, :], other=0.0)
    return tl.dot(tl.trans(g), columns, acc)


@triton.jit
def store_part(partial, acc, part, outputs, first, o, o_exists, k, row):
    to = (part * outputs + (first + o))[:, None] * row + k[None, :]
    tl.store(partial + to, acc, mask=o_exists[:, None] & (k < row)[None, :])


@triton.jit
def backward_weight(
    s,
    grad_y,
    grad_stride,
    partial,
    weight_groups,
    group_outputs,
    runs,
    tiles,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    REST_O: tl.constexpr,
    VECTORS: tl.constexpr,
    TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Partial sums of the gradient of weight over `tiles` tiles of BLOCK_P pixels; partial: [parts, O, runs, taps, RUN].

    A program computes BLOCK_O + REST_O outputs by VECTORS vectors. The corners of a tile are loaded before the product of the
    previous tile.
    """
    o_tiles = tl.cdiv(group_outputs, BLOCK_O + REST_O)
    rest = tl.program_id(0) // o_tiles
    first_o = (tl.program_id(0) - rest * o_tiles) * (BLOCK_O + REST_O)
    vectors = runs * s.kernel[0] * s.kernel[1] * (RUN // 8)
    row = vectors * 8
    chunks = tl.cdiv(vectors, VECTORS)
    chunk = rest % chunks
    rest = rest // chunks
    part = rest // weight_groups
    group = rest - part * weight_groups
    o = first_o + tl.arange(0, BLOCK_O)
    acc = tl.zeros((BLOCK_O, VECTORS * 8), tl.float32)
    if REST_O:
        rest_o = first_o + BLOCK_O + tl.arange(0, REST_O)
        rest_acc = tl.zeros((REST_O, VECTORS * 8), tl.float32)
    vector = chunk * VECTORS + tl.arange(0, VECTORS)
    channel, at, tap, found = vectors_of(s, vector[None, :], group, runs, RUN, GROUP_DEPTH, INDEX)

    p, n, oh, ow, exists = pixels_of(s, part.to(INDEX) * tiles * BLOCK_P, BLOCK_P, INDEX)
    from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
    here = exists[:, None] & found
    dy, dx, m = load_tap(s, n[:, None], oh[:, None], ow[:, None], here, at, tl.float32)
    v00, v01, v10, v11, weights = load_corners(s, n[:, None], oh[:, None], ow[:, None], here, channel, tap, dy, dx, m)
    columns = blend_corners(v00, v01, v10, v11, weights)
    for tile in range(1, tiles + 1):
        p, n, oh, ow, next_exists = pixels_of(s, (part.to(INDEX) * tiles + tile) * BLOCK_P, BLOCK_P, INDEX)
        here = next_exists[:, None] & found & (tile < tiles)
        dy, dx, m = load_tap(s, n[:, None], oh[:, None], ow[:, None], here, at, tl.float32)
        v00, v01, v10, v11, weights = load_corners(s, n[:, None], oh[:, None], ow[:, None], here, channel, tap, dy, dx, m)
        acc = multiply_gradient(grad_y, from_y, exists, group * group_outputs, o, o < group_outputs, columns, acc)
        if REST_O:
            rest_acc = multiply_gradient(
                grad_y, from_y, exists, group * group_outputs, rest_o, rest_o < group_outputs, columns, rest_acc
            )
        columns = blend_corners(v00, v01, v10, v11, weights)
        from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
        exists = next_exists
    k = chunk * (VECTORS * 8) + tl.arange(0, VECTORS * 8)
    outputs, first = weight_groups * group_outputs, group * group_outputs
    store_part(partial, acc, part.to(INDEX), outputs, first, o, o < group_outputs, k, row)
    if REST_O:
        store_part(partial, rest_acc, part.to(INDEX), outputs, first, rest_o, rest_o < group_outputs, k, row)
