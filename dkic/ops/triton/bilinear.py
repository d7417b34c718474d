"""Bilinear sampling of a zero-padded image in Triton: positions, corners and weights of taps; as csrc/cpu/bilinear.h."""

import triton
import triton.language as tl


@triton.jit
def sample_axis(position, size, EDGE: tl.constexpr):
    """One axis of a sample: (floor, fraction, low_inside, high_inside), for the pixels at floor and floor + 1.

    For a sample at exactly -1 both pixels count as outside. EDGE: the pixel at 0 counts as inside, with fraction 0.
    """
    p = tl.where(position > -2.0, position, -2.0)  # clamped, because the conversion of larger numbers to int32 is undefined
    p = tl.where(p < size + 1, p, size + 1)
    p = tl.where(position == position, p, 0.0)  # the fraction propagates NaN
    low = tl.floor(p)
    at = low.to(tl.int32)
    high_inside = (at >= -1) & (at < size - 1)
    if not EDGE:
        high_inside = high_inside & (p > -1.0)
    return at, position - low, (at >= 0) & (at < size), high_inside


@triton.jit
def pixels_of(s, first, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """(p, n, oh, ow, exists) of BLOCK output pixels from `first`, in row-major order over the batch.

    INDEX: int32, or int64 if the element indexes of a tensor need it. 64-bit divisions are slow, and 64-bit offsets take twice
    the registers.
    """
    p = tl.full((), 1, INDEX) * first + tl.arange(0, BLOCK)
    row = p // s.out_size[1]
    n = row // s.out_size[0]
    return p, n, row - n * s.out_size[0], p - row * s.out_size[1], p < s.pixels


@triton.jit
def load_tap(s, n, oh, ow, exists, channel, TYPE: tl.constexpr):
    """(dy, dx, m) of a tap for every pixel. channel: of mask; 2 * channel is the channel of dy in offset."""
    stride = s.offset_stride
    at = s.offset + (n * stride[0] + 2 * channel * stride[1] + oh * stride[2] + ow * stride[3])
    if len(exists.shape) == 2:  # [pixels, vectors]: use the layout of the corner loads, not a coalesced one for offset
        at = tl.max_contiguous(at, (1, 1))
    dy = tl.load(at, mask=exists, other=0.0).to(TYPE)
    dx = tl.load(at + stride[1], mask=exists, other=0.0).to(TYPE)
    m = tl.full(dy.shape, 1.0, TYPE)
    if s.mask is not None:
        stride = s.mask_stride
        at = s.mask + (n * stride[0] + channel * stride[1] + oh * stride[2] + ow * stride[3])
        if len(exists.shape) == 2:
            at = tl.max_contiguous(at, (1, 1))
        m = tl.load(at, mask=exists, other=0.0).to(TYPE)
    return dy, dx, m


@triton.jit
def place_tap(s, oh, ow, exists, tap, dy, dx, m, TYPE: tl.constexpr, EDGE: tl.constexpr = False):
    """(y, x, fy, fx, m, inside) of a tap from `load_tap`; inside: for the corners (0,0) (0,1) (1,0) (1,1).

    If no corner is inside, the fractions and m are 0. EDGE: see sample_axis; for the gradient of a position at exactly -1.
    """
    row = tap // s.kernel[1]
    column = tap - row * s.kernel[1]
    g = s.geometry
    from_y = oh.to(tl.int32) * g[0] - g[2] + row * g[4]
    from_x = ow.to(tl.int32) * g[1] - g[3] + column * g[5]
    y, fy, top, bottom = sample_axis(from_y.to(TYPE) + dy, s.size[0], EDGE)
    x, fx, left, right = sample_axis(from_x.to(TYPE) + dx, s.size[1], EDGE)
    top, bottom = top & exists, bottom & exists
    inside = (top & left, top & right, bottom & left, bottom & right)
    some = (top | bottom) & (left | right)  # otherwise the fractions may be infinite
    return y, x, tl.where(some, fy, 0.0), tl.where(some, fx, 0.0), tl.where(some, m, 0.0), inside


@triton.jit
def tap_of(s, n, oh, ow, exists, channel, tap, TYPE: tl.constexpr, EDGE: tl.constexpr = False):
    """`load_tap` followed by `place_tap`."""
    dy, dx, m = load_tap(s, n, oh, ow, exists, channel, TYPE)
    return place_tap(s, oh, ow, exists, tap, dy, dx, m, TYPE, EDGE)


@triton.jit
def corner_weights(fy, fx, m, inside):
    """Bilinear weights of the corners times the mask; 0 for a corner outside."""
    my = m * fy
    mx = m - my
    v11 = my * fx
    v01 = mx * fx
    return (
        tl.where(inside[0], mx - v01, 0.0),
        tl.where(inside[1], v01, 0.0),
        tl.where(inside[2], my - v11, 0.0),
        tl.where(inside[3], v11, 0.0),
    )


@triton.jit
def corners_of(n, y, x, strides, UNIT: tl.constexpr = 1):
    """Offsets of the first channel of each corner, in elements. strides: (n, h, w) of the image, multiples of UNIT.

    Without UNIT, Triton vectorizes loads only if the strides are multiples of 16.
    """
    below, right = strides[1] // UNIT * UNIT, strides[2] // UNIT * UNIT
    first = n * (strides[0] // UNIT * UNIT) + y.to(n.dtype) * below + x.to(n.dtype) * right
    return first, first + right, first + below, first + below + right


@triton.jit
def load_corner(image, at, inside, channel, exists, TYPE: tl.constexpr):
    """Values of one corner, [pixels, channels]; 0 outside."""
    return tl.load(image + (at[:, None] + channel[None, :]), mask=inside[:, None] & exists[None, :], other=0.0).to(TYPE)


@triton.jit
def corner_dots(grad, image, at, inside, channel, exists, TYPE: tl.constexpr):
    """Dot products over channels of grad and each corner of the image, four times `[pixels]`."""
    return (
        tl.sum(grad * load_corner(image, at[0], inside[0], channel, exists, TYPE), 1),
        tl.sum(grad * load_corner(image, at[1], inside[1], channel, exists, TYPE), 1),
        tl.sum(grad * load_corner(image, at[2], inside[2], channel, exists, TYPE), 1),
        tl.sum(grad * load_corner(image, at[3], inside[3], channel, exists, TYPE), 1),
    )


@triton.jit
def store_sample_gradients(grad_offset, grad_mask, number, dot00, dot01, dot10, dot11, fy, fx, m, exists):
    """Stores the gradients of offset and mask (None: not needed) of a tap, from its `corner_dots` over all channels.

    number: index of the mask element in contiguous NHWC.
    """
    right = dot01 - dot00
    top = dot00 + fx * right
    bottom = dot10 + fx * (dot11 - dot10)
    if grad_offset is not None:
        tl.store(grad_offset + 2 * number, m * (bottom - top), mask=exists)
        tl.store(grad_offset + 2 * number + 1, m * (right + fy * (dot11 - dot10 - right)), mask=exists)
    if grad_mask is not None:
        tl.store(grad_mask + number, top + fy * (bottom - top), mask=exists)


@triton.jit
def blend(image, at, weights, inside, channel, exists, TYPE: tl.constexpr):
    """Weighted sum of the corners, [pixels, channels]."""
    v00 = load_corner(image, at[0], inside[0], channel, exists, TYPE)
    v01 = load_corner(image, at[1], inside[1], channel, exists, TYPE)
    v10 = load_corner(image, at[2], inside[2], channel, exists, TYPE)
    v11 = load_corner(image, at[3], inside[3], channel, exists, TYPE)
    sample = v00 * weights[0][:, None] + v01 * weights[1][:, None]
    return sample + v10 * weights[2][:, None] + v11 * weights[3][:, None]
