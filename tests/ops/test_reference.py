"""The reference's Gaussian bits, against arbitrary precision. (Its ldcn is tested together with the kernels.)"""

import mpmath
import pytest
import torch
from ops import likelihood_limits

from dkic.ops.reference import gaussian_bits

mpmath.mp.dps = 60

# |v| / scale: the middle, the flank, the tail, where a probability underflows float64 (38), and far beyond.
RATIOS = (0.0, 0.01, 0.3, 1.0, 5.0, 12.0, 37.0, 39.0, 300.0, 1000.0)
SCALES = (0.05, 0.11, 0.5, 1.0, 10.0, 256.0, 1e4, 1e6, 1e8)


def exact_bits(v: mpmath.mpf, scale: mpmath.mpf) -> mpmath.mpf:
    root = mpmath.sqrt(2) * scale
    upper_tails = (mpmath.erfc((abs(v) + side * mpmath.mpf("0.5")) / root) for side in (-1, 1))
    return -mpmath.log((next(upper_tails) - next(upper_tails)) / 2, 2)


def exact_gradient(v: mpmath.mpf, scale: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Derivatives of -log2 P, where P is the mass of the bin, from the difference of the density at its edges."""
    edges = [(v + side * mpmath.mpf("0.5")) / scale for side in (1, -1)]
    density = [mpmath.npdf(edge) for edge in edges]
    mass = mpmath.power(2, -exact_bits(v, scale)) * mpmath.log(2) * scale
    by_v = -(density[0] - density[1]) / mass
    by_scale = (density[0] * edges[0] - density[1] * edges[1]) / mass
    return by_v, by_scale


def points(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """v, of both signs, and scale, as numbers of that dtype."""
    scale, ratio = torch.tensor(SCALES).double(), torch.tensor(RATIOS).double()
    v = scale[:, None] * torch.cat([ratio, -ratio])
    return v.to(dtype).flatten().requires_grad_(), scale.repeat_interleave(2 * len(ratio)).to(dtype).requires_grad_()


# Relative errors. float64: at scale 1e8 the two edges of the bin agree to 9 digits, of 16; near it, also, the gradient of
# scale passes through 0 at v = scale. float32: its own rounding, of bits and gradient.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-7)], ids=str)
def test_bits_are_exact_in_the_tail_and_at_large_scales(dtype, tolerance):
    v, scale = points(dtype)
    bits = gaussian_bits(v, scale)
    assert bits.dtype == dtype
    for got, *at in zip(bits.tolist(), v.tolist(), scale.tolist(), strict=True):
        expected = exact_bits(*map(mpmath.mpf, at))
        assert got == pytest.approx(float(expected), rel=tolerance), at


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gradients_are_finite_and_exact(dtype):
    v, scale = points(dtype)
    by_v, by_scale = torch.autograd.grad(gaussian_bits(v, scale).sum(), (v, scale))
    assert by_v.dtype == by_scale.dtype == dtype
    assert by_v.isfinite().all() and by_scale.isfinite().all()
    for got_v, got_scale, *at in zip(*(t.tolist() for t in (by_v, by_scale, v, scale)), strict=True):
        expected_v, expected_scale = map(float, exact_gradient(*map(mpmath.mpf, at)))
        # Near v = scale the gradient of scale vanishes; 1 / scale is its size round about.
        assert got_v == pytest.approx(expected_v, rel=1e-5, abs=1e-15), at
        assert got_scale == pytest.approx(expected_scale, rel=1e-5, abs=1e-7 / at[1]), at


def test_the_bits_of_all_bins_are_a_distribution():
    v = torch.arange(-4000, 4001, dtype=torch.float64)
    for scale in (0.11, 1.0, 37.5, 256.0):
        mass = torch.exp2(-gaussian_bits(v, torch.full_like(v, scale))).sum()
        assert mass.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_limits(dtype):
    v, scale = (t.requires_grad_() for t in likelihood_limits.points(dtype))
    bits = gaussian_bits(v, scale)
    likelihood_limits.assert_limits(v, scale, bits, *torch.autograd.grad(bits.sum(), (v, scale)))
