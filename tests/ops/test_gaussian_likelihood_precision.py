"""Bits, likelihoods and gradients of dkic.ops.gaussian_likelihood against arbitrary precision."""

import math
from functools import cache

import mpmath
import pytest
import torch
from ops.test_reference import exact_bits, exact_gradient

from dkic.ops import gaussian_likelihood

RATIOS = (0.0, 1e-6, 0.01, 0.3, 0.5, 1.0, 1.7, 3.0, 5.0, 9.0, 12.0, 37.0, 39.0, 150.0, 300.0, 1000.0)
SCALES = (0.11, 0.12, 0.2, 0.3, 0.5, 0.8, 1.0, 1.1, 1.12, 1.2, 1.5, 2.0, 4.0, 10.0, 37.0, 100.0, 256.0)
# The largest errors allowed: of bits relative to themselves, of a gradient g relative to |g| + 1 / scale.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
# Of likelihoods P relative to themselves, of a gradient g relative to |g| + P / scale.
LIKELIHOOD_TOLERANCE = {torch.float32: 1e-6, torch.float64: 2e-15}


@cache
def points(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, list[tuple[float, float, float, float]]]:
    """v, scale and what is exact there (bits, their derivatives, likelihood): a grid, and 1500 random points, many of them at
    |v| about 1/2."""
    scale, ratio = torch.tensor(SCALES).double(), torch.tensor(RATIOS).double()
    grid = torch.stack([scale[:, None] * torch.cat([ratio, -ratio[1:]]), scale[:, None].expand(-1, 2 * len(ratio) - 1)])
    generator = torch.Generator().manual_seed(0)
    r, s, half, sign = torch.rand(4, 1500, generator=generator, dtype=torch.float64)
    s = 0.11 * (256 / 0.11) ** s
    v = torch.where(half < 0.3, 1.2 * r, s * 1e-3 * 1e6**r) * (sign - 0.5).sign()
    v, s = torch.cat([grid.flatten(1), torch.stack([v, s])], 1).to(dtype)
    s = s.clamp(torch.tensor(0.11, dtype=dtype), 256)
    exact = []
    for at in zip(v.tolist(), s.tolist(), strict=True):
        at = tuple(map(mpmath.mpf, at))
        bits = exact_bits(*at)
        exact.append((float(bits), *map(float, exact_gradient(*at)), float(mpmath.power(2, -bits))))
    return v[None], s[None], exact


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_bits_and_gradients_are_exact(dtype, reduction):
    v, scale, exact = points(dtype)
    expected = torch.tensor(exact, dtype=torch.float64).T
    v.requires_grad_(), scale.requires_grad_()
    bits = gaussian_likelihood(v, scale, quantize="none", scale_min=0.1, reduction=reduction)[1]
    gradients = torch.autograd.grad(bits.sum(), (v, scale))
    assert all(t.isfinite().all() for t in (bits, *gradients))
    if reduction == "none":
        assert ((bits.double() - expected[0]).abs() / expected[0]).max() <= TOLERANCE[dtype]
    else:
        assert bits.item() == pytest.approx(expected[0].sum().item(), rel=TOLERANCE[dtype])
    for gradient, e in zip(gradients, expected[1:3], strict=True):
        assert ((gradient.double() - e).abs() / (e.abs() + 1 / scale.double())).max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_likelihoods_and_gradients_are_exact(dtype):
    """Below the normal numbers, a likelihood and its gradients are 0."""
    v, scale, exact = points(dtype)
    _, bits_by_v, bits_by_scale, p = torch.tensor(exact, dtype=torch.float64).T
    v.requires_grad_(), scale.requires_grad_()
    likelihood = gaussian_likelihood(v, scale, quantize="none", scale_min=0.1, output="likelihood")[1]
    by_v, by_scale = torch.autograd.grad(likelihood.sum(), (v, scale))
    info, tolerance = torch.finfo(dtype), LIKELIHOOD_TOLERANCE[dtype]
    normal = p >= info.tiny
    assert 0.3 < normal.double().mean() < 0.99
    assert not any(t[0, ~normal].any() for t in (likelihood, by_v, by_scale))
    assert ((likelihood.double() - p).abs() / p)[0, normal].max() <= tolerance
    for gradient, of_bits in ((by_v, bits_by_v), (by_scale, bits_by_scale)):
        e = -math.log(2) * p * of_bits
        limit = tolerance * (e.abs() + p / scale.double()) + info.tiny * info.eps  # the spacing of subnormal numbers
        assert ((gradient.double() - e).abs() <= limit)[0, normal].all()


def test_float32_beside_float64_everywhere():
    """At two million points, half of them near the border between two formulas."""
    r, s, sign, near = torch.rand(4, 2**21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = torch.where(near < 0.5, 0.11 * 20**s, 0.11 * (256 / 0.11) ** s).float().clamp(0.11, 256)
    v = torch.where(near < 0.5, 2 * r, s.double() * 1e-3 * 1e6**r) * (sign - 0.5).sign()
    outcomes = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.float().to(dtype)[None].requires_grad_() for t in (v, s)]
        bits = gaussian_likelihood(*leaves, quantize="none", scale_min=0.1)[1]
        outcomes.append([t.detach().double() for t in (bits, *torch.autograd.grad(bits.sum(), leaves))])
    single, double = outcomes
    assert ((single[0] - double[0]).abs() / double[0]).max() <= TOLERANCE[torch.float32]
    for got, expected in zip(single[1:], double[1:], strict=True):
        assert ((got - expected).abs() / (expected.abs() + 1 / s.double())).max() <= TOLERANCE[torch.float32]


def test_half_types_give_the_bits_of_their_numbers():
    v, scale, _ = points(torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        fits = v.abs() < 6e4
        bits = gaussian_likelihood(v[fits].to(dtype), scale[fits].to(dtype), quantize="none")[1]
        same = gaussian_likelihood(v[fits].to(dtype).float(), scale[fits].to(dtype).float(), quantize="none")[1]
        assert bits.dtype == torch.float32 and torch.equal(bits, same)


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e13), (torch.float64, 1e100)], ids=str)
def test_far_beyond_there_is_no_inf_or_nan(dtype, far):
    """Also for small scales, where P rounds to 1."""
    scale = torch.tensor([1e-3, 0.11, 1.0, 1e3, 1e8], dtype=dtype).repeat_interleave(5)[None].requires_grad_()
    v = torch.tensor([0.0, 0.5, 3.0, 1e6, far], dtype=dtype).repeat(5)[None].requires_grad_()
    bits = gaussian_likelihood(v, scale, quantize="none", scale_min=1e-4)[1]
    assert all(t.isfinite().all() for t in (bits, *torch.autograd.grad(bits.sum(), (v, scale))))
    assert (bits >= 0).all()


@pytest.mark.parametrize("ratio", [2.0**19, 2.0**21, 2.0**50])
def test_bits_far_out_at_a_large_scale(ratio):
    scale = torch.tensor([1e3], requires_grad=True)
    v = torch.tensor([ratio * 1e3], requires_grad=True)
    bits = gaussian_likelihood(v, scale, quantize="none")[1]
    by_v, by_scale = torch.autograd.grad(bits.sum(), (v, scale))
    expected = ratio**2 / 2 / math.log(2)
    assert bits.item() == pytest.approx(expected, rel=1e-6)
    assert by_v.item() == pytest.approx(2 * expected / v.item(), rel=1e-6)
    assert by_scale.item() == pytest.approx(-2 * expected / scale.item(), rel=1e-6)


def test_gradients_vanish_where_symmetry_says_so():
    scale = torch.tensor([[0.11, 0.4, 1.0, 1.2, 30.0]], requires_grad=True)
    v = torch.zeros_like(scale, requires_grad=True)
    (by_v,) = torch.autograd.grad(gaussian_likelihood(v, scale, quantize="none")[1].sum(), v)
    assert not by_v.any()
