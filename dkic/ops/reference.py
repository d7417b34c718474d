"""The ops in plain PyTorch: slow, differentiable, and the specification that the kernels are tested against."""

import math

import torch
from torch import Tensor

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """An int or a pair of ints, as a pair (height, width)."""
    return (value, value) if isinstance(value, int) else value


def ldcn(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    *,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Tensor:
    """See `dkic.ops.ldcn`. Computes in the dtype of x, so pass float64 for a reference."""
    return samples(x, offset, mask, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation).sum(2)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """See `dkic.ops.deform_conv2d`. Computes in the dtype of input, so pass float64 for a reference."""
    o, depth, kh, kw = weight.shape
    columns = samples(input, offset, mask, kernel_size=(kh, kw), stride=stride, padding=padding, dilation=dilation)
    n, c, k, ho, wo = columns.shape
    columns = columns.reshape(n, c // depth, depth, k, ho, wo)
    y = torch.einsum("ngckhw,gock->ngohw", columns, weight.reshape(c // depth, -1, depth, k)).reshape(n, o, ho, wo)
    return y if bias is None else y + bias.view(-1, 1, 1)


def samples(
    x: Tensor, offset: Tensor, mask: Tensor | None, *, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Every tap's bilinear sample times its mask, `[N, C, K, Ho, Wo]`."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    n, c, h, w = x.shape
    k = kh * kw
    groups = offset.shape[1] // (2 * k)
    ho, wo = offset.shape[2:]
    offset = offset.to(x.dtype).reshape(n, groups, k, 2, ho, wo)
    tap = torch.arange(k, device=x.device)
    row = (tap // kw * dh).view(k, 1, 1) + (torch.arange(ho, device=x.device) * sh - ph).view(1, ho, 1)
    column = (tap % kw * dw).view(k, 1, 1) + (torch.arange(wo, device=x.device) * sw - pw).view(1, 1, wo)
    py, px = offset[:, :, :, 0] + row, offset[:, :, :, 1] + column  # [n, groups, k, ho, wo]

    # A sample outside is moved to (-2, -2), where it has no corner: so it is 0, with gradient 0, even at infinity.
    outside = (py <= -1) | (py >= h) | (px <= -1) | (px >= w)  # not so for NaN, which has to be seen in the result
    py, px = (torch.where(outside, -2.0, position) for position in (py, px))
    y0, x0 = (position.detach().nan_to_num().floor() for position in (py, px))
    fy, fx = py - y0, px - x0
    image = x.reshape(n, groups, c // groups, h * w)
    sampled = x.new_zeros(())
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            cy, cx = (y0 + dy).long(), (x0 + dx).long()
            valid = (cy >= 0) & (cy < h) & (cx >= 0) & (cx < w)
            index = torch.where(valid, cy * w + cx, 0).flatten(2).unsqueeze(2)
            corner = image.gather(3, index.expand(-1, -1, c // groups, -1)).reshape(n, groups, c // groups, k, ho, wo)
            weight = wy * wx
            if mask is not None:
                weight = weight * mask.to(x.dtype).reshape(n, groups, k, ho, wo)
            # Both are 0 where there is no corner: 0 times what lies elsewhere would let inf and NaN in.
            sampled = sampled + torch.where(valid.unsqueeze(2), corner, 0) * torch.where(valid, weight, 0).unsqueeze(2)
    return sampled.reshape(n, c, k, ho, wo)


def gaussian_bits(v: Tensor, scale: Tensor) -> Tensor:
    """Bits of the unit bin around v under a zero-mean Gaussian: -log2(Phi((v + 1/2) / scale) - Phi((v - 1/2) / scale)).

    v, scale: tensors of one shape; scale > 0. The result has the dtype of v. Worked out in log space on the tail's side, so
    that neither value nor gradient is lost however small the probability is; and in float64, since at a large scale the two
    edges of the bin differ by less than float32 can tell.
    """
    dtype = v.dtype
    v, scale = v.abs().double(), scale.double()  # the bin of -v is as likely, and its upper tail does not cancel
    upper = torch.special.log_ndtr((0.5 - v) / scale)
    lower = torch.special.log_ndtr((-0.5 - v) / scale)
    return (-(upper + torch.log(-torch.expm1(lower - upper))) / math.log(2)).to(dtype)
