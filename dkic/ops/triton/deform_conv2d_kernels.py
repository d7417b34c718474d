"""The Triton kernels of deform_conv2d. A tile of samples is made in registers and multiplied there; no columns are written.

The image x and grad_y have their channels side by side (strides are those of n, h, w), and y is NHWC without gaps. The weight is
[O, kernel height, kernel width, channels of a weight group]. Channels come in runs, which lie in one offset group and in one
weight group: so a tap's position is worked out once for BLOCK_C of them.

Of a launch's sizes, size is (height, width) of x, out_size that of y, kernel that of the kernel.
"""

import triton
import triton.language as tl

from dkic.ops.triton.bilinear import blend, corner_dots, corner_weights, corners_of, pixels_of, store_sample_gradients, tap_of
from dkic.ops.triton.image_sums import add_to_corners


@triton.jit
def forward(
    x,
    offset,
    weight,
    bias,
    mask,
    y,
    pixels,
    size,
    out_size,
    kernel,
    geometry,
    x_stride,
    offset_stride,
    mask_stride,
    out_channels,
    group_outputs,
    runs,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """A program: BLOCK_P pixels by BLOCK_O outputs of a weight group, which has `runs` runs."""
    tiles = tl.cdiv(group_outputs, BLOCK_O)
    weight_groups = out_channels // group_outputs
    rest = tl.program_id(0) // tiles
    o = (tl.program_id(0) - rest * tiles) * BLOCK_O + tl.arange(0, BLOCK_O)
    tile = rest // weight_groups
    group = rest - tile * weight_groups
    o_exists = o < group_outputs
    o += group * group_outputs
    p, n, oh, ow, exists = pixels_of(tile, pixels, out_size, BLOCK_P, INDEX)
    taps = kernel[0] * kernel[1]
    acc = tl.zeros((BLOCK_P, BLOCK_O), TYPE)
    for run in range(0, runs):
        first = (group * runs + run) * RUN  # channel of x
        offset_group = first // GROUP_DEPTH
        for tap in range(0, taps):
            row = tap // kernel[1]
            sy, sx, fy, fx, m, inside = tap_of(
                offset,
                mask,
                n,
                oh,
                ow,
                exists,
                (offset_group * taps + tap).to(INDEX),
                row,
                tap - row * kernel[1],
                size,
                geometry,
                offset_stride,
                mask_stride,
                TYPE,
            )
            at = corners_of(n, sy, sx, x_stride)
            weights = corner_weights(fy, fx, m, inside)
            for begin in range(0, RUN, BLOCK_C):
                c = begin + tl.arange(0, BLOCK_C)
                columns = blend(x, at, weights, inside, first + c, c < RUN, TYPE)
                w = weight + (o.to(INDEX) * taps + tap)[None, :] * (runs * RUN) + (run * RUN + c)[:, None]
                w = tl.load(w, mask=(c < RUN)[:, None] & o_exists[None, :], other=0.0)
                acc = tl.dot(columns.to(w.dtype), w, acc, input_precision=PRECISION, out_dtype=TYPE)
    if bias is not None:
        acc += tl.load(bias + o, mask=o_exists, other=0.0).to(TYPE)[None, :]
    to = y + p[:, None] * out_channels + o[None, :]
    tl.store(to, acc.to(y.dtype.element_ty), mask=exists[:, None] & o_exists[None, :])


@triton.jit
def backward_samples(
    grad_y,
    x,
    offset,
    weight,
    mask,
    sums,
    second_sums,
    poisoned,
    powers,
    grad_offset,
    grad_mask,
    pixels,
    size,
    out_size,
    kernel,
    geometry,
    grad_stride,
    x_stride,
    sum_stride,
    offset_stride,
    mask_stride,
    groups,
    group_outputs,
    depth,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The gradients of x, offset and mask. A program: one tap of BLOCK_P pixels, for all channels of an offset group.

    depth: channels of a weight group. The columns' gradients, grad_y times weight, are made BLOCK_C channels at a time.
    Of a position at -1 the next corners are read, for offset; to x and mask they give 0 times what is there: NaN, where that is
    not finite. (To leave them out took registers that the kernel does not have.)
    """
    taps = kernel[0] * kernel[1]
    rest = tl.program_id(0) // taps
    tap = tl.program_id(0) - rest * taps
    tile = rest // groups
    offset_group = rest - tile * groups
    row = tap // kernel[1]
    p, n, oh, ow, exists = pixels_of(tile, pixels, out_size, BLOCK_P, INDEX)
    channel = (offset_group * taps + tap).to(INDEX)
    sy, sx, fy, fx, m, inside = tap_of(
        offset,
        mask,
        n,
        oh,
        ow,
        exists,
        channel,
        row,
        tap - row * kernel[1],
        size,
        geometry,
        offset_stride,
        mask_stride,
        TYPE,
        EDGE=True,
    )
    from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
    dot00 = tl.zeros((BLOCK_P,), TYPE)
    dot01, dot10, dot11 = dot00, dot00, dot00
    for run in range(0, GROUP_DEPTH // RUN):
        first = offset_group * GROUP_DEPTH + run * RUN
        weight_group = first // depth
        for begin in range(0, RUN, BLOCK_C):
            c = begin + tl.arange(0, BLOCK_C)
            c_exists = c < RUN
            grad = tl.zeros((BLOCK_P, BLOCK_C), TYPE)
            for begin_o in range(0, group_outputs, BLOCK_O):
                o = begin_o + tl.arange(0, BLOCK_O)
                o_exists = o < group_outputs
                o += weight_group * group_outputs
                g = tl.load(grad_y + (from_y[:, None] + o[None, :]), mask=exists[:, None] & o_exists[None, :], other=0.0)
                w = weight + (o.to(INDEX) * taps + tap)[:, None] * depth + (first - weight_group * depth + c)[None, :]
                w = tl.load(w, mask=o_exists[:, None] & c_exists[None, :], other=0.0)
                grad = tl.dot(g, w, grad, input_precision=PRECISION, out_dtype=TYPE)
            c += first
            if grad_offset is not None or grad_mask is not None:
                at = corners_of(n, sy, sx, x_stride)
                d00, d01, d10, d11 = corner_dots(grad, x, at, inside, c, c_exists, TYPE)
                dot00 += d00
                dot01 += d01
                dot10 += d10
                dot11 += d11
            if sums is not None:
                at = corners_of(n, sy, sx, sum_stride)
                weights = corner_weights(fy, fx, m, inside)
                add_to_corners(sums, second_sums, poisoned, powers, at, weights, inside, grad, c, c_exists)
    number = p * groups * taps + channel
    store_sample_gradients(grad_offset, grad_mask, number, dot00, dot01, dot10, dot11, fy, fx, m, exists)


@triton.jit
def backward_weight(
    grad_y,
    x,
    offset,
    mask,
    partial,
    pixels,
    size,
    out_size,
    kernel,
    geometry,
    grad_stride,
    x_stride,
    offset_stride,
    mask_stride,
    out_channels,
    group_outputs,
    depth,
    tiles,
    RUN: tl.constexpr,
    GROUP_DEPTH: tl.constexpr,
    TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The gradient of weight over `tiles` tiles of BLOCK_P pixels each, into partial [parts, O, kernel, depth].

    A program: one tap, BLOCK_O outputs, BLOCK_C channels.
    """
    taps = kernel[0] * kernel[1]
    rest = tl.program_id(0) // taps
    tap = tl.program_id(0) - rest * taps
    row = tap // kernel[1]
    chunks: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    o_tiles = tl.cdiv(group_outputs, BLOCK_O)
    o = rest % o_tiles * BLOCK_O + tl.arange(0, BLOCK_O)
    rest = rest // o_tiles
    c = rest % chunks * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = rest // chunks
    runs = out_channels // group_outputs * (depth // RUN)
    part = rest // runs
    first = (rest - part * runs) * RUN
    weight_group = first // depth
    offset_group = first // GROUP_DEPTH
    o_exists = o < group_outputs
    c_exists = c < RUN
    o += weight_group * group_outputs
    channel = (offset_group * taps + tap).to(INDEX)
    acc = tl.zeros((BLOCK_O, BLOCK_C), TYPE)
    for tile in range(part * tiles, part * tiles + tiles):
        p, n, oh, ow, exists = pixels_of(tile, pixels, out_size, BLOCK_P, INDEX)
        sy, sx, fy, fx, m, inside = tap_of(
            offset, mask, n, oh, ow, exists, channel, row, tap - row * kernel[1], size, geometry, offset_stride, mask_stride, TYPE
        )
        at = corners_of(n, sy, sx, x_stride)
        columns = blend(x, at, corner_weights(fy, fx, m, inside), inside, first + c, c_exists, TYPE)
        from_y = n * grad_stride[0] + oh * grad_stride[1] + ow * grad_stride[2]
        g = tl.load(grad_y + (from_y[:, None] + o[None, :]), mask=exists[:, None] & o_exists[None, :], other=0.0)
        acc = tl.dot(tl.trans(g), columns.to(g.dtype), acc, input_precision=PRECISION, out_dtype=TYPE)
    number = (part.to(INDEX) * out_channels + o)[:, None] * taps + tap
    to = partial + number * depth + (first - weight_group * depth + c)[None, :]
    tl.store(to, acc, mask=o_exists[:, None] & c_exists[None, :])
