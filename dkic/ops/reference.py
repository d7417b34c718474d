"""Reference implementations of the ops in plain PyTorch: slow, differentiable; the kernels are tested against them."""

import math

import torch
from torch import Tensor

from dkic.ops.deform_arguments import Pair, list_of

_WORD = 0xFFFFFFFF


def ldcn(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
) -> Tensor:
    """See `dkic.ops.ldcn`. Computes in the dtype of x; pass float64 for a reference."""
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
    """See `dkic.ops.deform_conv2d`. Computes in the dtype of input; pass float64 for a reference."""
    o, depth, kh, kw = weight.shape
    geometry = {"kernel_size": (kh, kw), "stride": stride, "padding": padding, "dilation": dilation}
    columns = samples(input, offset, mask, **geometry, inner_gradient=True)
    n, c, k, ho, wo = columns.shape
    weight_groups = c // depth
    columns = columns.reshape(n, weight_groups, depth, k, ho, wo)
    weight = weight.reshape(weight_groups, o // weight_groups, depth, k)
    y = torch.einsum("ngckhw,gock->ngohw", columns, weight).reshape(n, o, ho, wo)
    return y if bias is None else y + bias.view(-1, 1, 1)


def samples(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    inner_gradient: bool = False,
) -> Tensor:
    """Bilinear samples of all taps, multiplied by the mask: `[N, C, K, Ho, Wo]`.

    inner_gradient: the gradient of a position of exactly -1 is the one-sided derivative from inside the image, as in torchvision;
    otherwise zero.
    """
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = map(list_of, (kernel_size, stride, padding, dilation))
    n, c, h, w = x.shape
    k = kh * kw
    groups = offset.shape[1] // (2 * k)
    ho, wo = offset.shape[2:]
    offset = offset.to(x.dtype).reshape(n, groups, k, 2, ho, wo)
    tap = torch.arange(k, device=x.device)
    row = (tap // kw * dh).view(k, 1, 1) + (torch.arange(ho, device=x.device) * sh - ph).view(1, ho, 1)
    column = (tap % kw * dw).view(k, 1, 1) + (torch.arange(wo, device=x.device) * sw - pw).view(1, 1, wo)
    py, px = offset[:, :, :, 0] + row, offset[:, :, :, 1] + column  # [n, groups, k, ho, wo]

    # Samples outside the image, also infinite ones, are moved to (-2, -2), where no corner is inside: value and gradient are 0.
    # NaN positions are not moved, so that they propagate to the result.
    before = torch.lt if inner_gradient else torch.le
    outside = before(py, -1) | (py >= h) | before(px, -1) | (px >= w)
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
            # Both factors are masked, because 0 times an infinite or NaN factor would be NaN.
            sampled = sampled + torch.where(valid.unsqueeze(2), corner, 0) * torch.where(valid, weight, 0).unsqueeze(2)
    return sampled.reshape(n, c, k, ho, wo)


def gaussian_bits(v: Tensor, scale: Tensor) -> Tensor:
    """Bits of the unit bin around v under a zero-mean Gaussian: -log2(Phi((v + 1/2) / scale) - Phi((v - 1/2) / scale)).

    v, scale: tensors of the same shape; scale > 0. The result has the dtype of v. It is computed in log space from the nearer
    tail, so that values and gradients are accurate for arbitrarily small probabilities; and in float64, because at a large scale
    the edges of the bin differ by less than the resolution of float32.

    Limits: an infinite scale gives infinite bits and zero gradients; an infinite v gives infinite bits and infinite gradients;
    NaN in v or scale, or both infinite, gives NaN.
    """
    dtype = v.dtype
    v, scale = v.abs().double(), scale.double()  # by symmetry; the upper tail has no cancellation
    ratio = v / scale
    flat, far = scale.isinf() & v.isfinite(), ratio > 2.0**60
    # Safe arguments where the result of the formula is not used: otherwise gradients would be 0 * infinity = NaN.
    near_v, near_scale = v.masked_fill(flat | far, 0), scale.masked_fill(flat | far, 1)
    upper = torch.special.log_ndtr((0.5 - near_v) / near_scale)
    lower = torch.special.log_ndtr((-0.5 - near_v) / near_scale)
    nats = -(upper + torch.log(-torch.expm1(lower - upper)))
    nats = torch.where(far, ratio**2 / 2, nats).masked_fill(flat, math.inf)
    return (nats / math.log(2)).to(dtype)


class _Rounded(torch.autograd.Function):
    """round(x), half to even, with a straight-through gradient. x + (round(x) - x) would turn infinity into NaN."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class _AtLeast(torch.autograd.Function):
    """max(x, bound). Below the bound, the gradient passes only if a descent step would increase x (CompressAI's `LowerBound`)."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.below = x < bound
        return torch.where(ctx.below, bound, x)  # propagates NaN

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return torch.where(ctx.below & (grad > 0), 0, grad), None


def gaussian_likelihood(
    y: Tensor,
    scale: Tensor,
    mean: Tensor | None = None,
    *,
    quantize: str,
    noise: Tensor | None = None,
    seed: int | None = None,
    scale_min: float = 0.11,
    reduction: str = "none",
    output: str = "bits",
    likelihood_min: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """See `dkic.ops.gaussian_likelihood`; `seed` is the number drawn from its generator. Pass float64 for a reference."""
    mean = torch.zeros_like(y) if mean is None else mean
    residual = y - mean
    if quantize == "round":
        residual = _Rounded.apply(residual)
        y_hat = residual + mean
    elif quantize == "noise":
        u = gaussian_noise(y.shape, seed or 0).to(y) if noise is None else noise
        residual, y_hat = residual + u, y + u
    else:
        y_hat = y
    bits = gaussian_bits(residual, _AtLeast.apply(scale.expand(y.shape), scale_min))
    if output == "likelihood":
        # An infinite residual has infinite gradients of the bits; times a likelihood of 0 they would be NaN.
        likelihood = torch.exp2(-bits.masked_fill(bits.isinf(), 0)).masked_fill(bits.isinf(), 0)
        return y_hat, _AtLeast.apply(likelihood, likelihood_min)
    return y_hat, bits.flatten(1).sum(1) if reduction == "sum" and bits.dim() > 1 else bits


def philox(counter: Tensor, key: int) -> Tensor:
    """Philox 4x32-10 (Salmon et al. 2011): maps 32-bit words `[..., 4]`, stored as int64, to random words of the same shape."""
    word = list(counter.unbind(-1))
    keys = [key & _WORD, key >> 32 & _WORD]
    for _ in range(10):
        # The 64-bit product may overflow to a negative number; its two halves are still correct.
        product0, product1 = word[0] * 0xD2511F53, word[2] * 0xCD9E8D57
        word = [
            (product1 >> 32 & _WORD) ^ word[1] ^ keys[0],
            product1 & _WORD,
            (product0 >> 32 & _WORD) ^ word[3] ^ keys[1],
            product0 & _WORD,
        ]
        keys = [(keys[0] + 0x9E3779B9) & _WORD, (keys[1] + 0xBB67AE85) & _WORD]
    return torch.stack(word, -1)


def gaussian_noise(shape: torch.Size | tuple[int, ...], seed: int) -> Tensor:
    """The random noise of `gaussian_likelihood`: multiples of 2^-24 in [-1/2, 1/2), float64.

    Element e (in row-major order) of sample n is the upper 24 bits of word e % 4 of the Philox block with key `seed` and the
    counter (e // 4, n), two 64-bit numbers with the lower word first.
    """
    n = torch.arange(shape[0], device="cpu").view(-1, 1)
    e = torch.arange(math.prod(shape[1:]), device="cpu")
    block = e // 4
    counter = torch.stack(torch.broadcast_tensors(block & _WORD, block >> 32, n & _WORD, n >> 32), -1)
    index = (e % 4).view(1, -1, 1).expand(shape[0], -1, 1)
    word = philox(counter, seed).gather(-1, index).squeeze(-1)
    return ((word >> 8).double() * 2.0**-24 - 0.5).reshape(shape)
