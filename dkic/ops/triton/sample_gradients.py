"""Gradients of samples in Triton, shared by the deformable ops."""

import triton
import triton.language as tl

from dkic.ops.triton.bilinear import corner_dots, corner_weights, corners_of
from dkic.ops.triton.image_sums import add_to_corners


@triton.jit
def add_channels(s, to, dots, NEED_DOTS: tl.constexpr, n, tap, inside, grad, c, c_exists):
    """Adds the contribution of some channels to the gradients of a tap; returns the updated dots.

    Args:
        s: SampleArguments.
        to: SumArguments for the gradient of the image, or None.
        dots: four accumulated `corner_dots`, for the gradients of offset and mask (`store_sample_gradients`); unchanged unless
            NEED_DOTS.
        tap, inside: (y, x, fy, fx, m) and inside from `tap_of`, for images n.
        grad: gradient of the samples, `[pixels, channels]`, in the dtype of the dots.
        c, c_exists: the channels of grad, and which of them exist.
    """
    dot00, dot01, dot10, dot11 = dots
    y, x, fy, fx, m = tap
    if NEED_DOTS:
        at = corners_of(n, y, x, s.x_stride, s.unit)
        d00, d01, d10, d11 = corner_dots(grad, s.x, at, inside, c, c_exists, grad.dtype)
        dot00 += d00
        dot01 += d01
        dot10 += d10
        dot11 += d11
    if to is not None:
        at = corners_of(n, y, x, to.stride)
        add_to_corners(to, at, corner_weights(fy, fx, m, inside), inside, grad, c, c_exists)
    return dot00, dot01, dot10, dot11
