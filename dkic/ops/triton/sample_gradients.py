"""Gradients of samples in Triton, for all deformable ops."""

import triton

from dkic.ops.triton.bilinear import corner_dots, corner_weights, corners_of
from dkic.ops.triton.image_sums import add_to_corners


@triton.jit
def add_channels(s, to, grad_offset, grad_mask, dot00, dot01, dot10, dot11, n, y, x, fy, fx, m, inside, grad, c, c_exists):
    """Some channels' part of a tap's gradients: adds that of the image to its sums, and returns the four `corner_dots` so far.

    grad: of the samples, `[pixels, channels]`, in the dtype of the dots. to: SumArguments, or None. Of grad_offset and grad_mask
    only matters whether they are None; the dots are theirs, see `store_sample_gradients`.
    """
    if grad_offset is not None or grad_mask is not None:
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
