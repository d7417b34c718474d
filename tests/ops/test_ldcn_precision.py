"""Errors of dkic.ops.ldcn in float32, float16 and bfloat16 are within its contract."""

import pytest
import torch
from ops import tolerances
from ops.op_cases import LDCN_FEW, LDCN_STATISTICS, LdcnCase
from torch import Tensor

from dkic.ops import ldcn, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = [torch.float16, torch.bfloat16]


def results(op, case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    named = {name: t.detach().requires_grad_() for name, t in zip(("x", "offset", "mask"), tensors, strict=True) if t is not None}
    y = op(**named, **case.geometry)
    return {"y": y.detach(), **dict(zip(named, torch.autograd.grad(y, list(named.values()), grad_y), strict=True))}


def as_float64(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(t if t is None else t.double() for t in tensors)


def largest(t: Tensor) -> float:
    return t.abs().max().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_error_beside_plain_pytorch(case, dtype):
    """All in one dtype: against the reference in float64, at most twice the reference's own error in that dtype."""
    tensors, grad_y = case.tensors(dtype, spread=1.0), case.grad_y(dtype)
    exact = results(reference.ldcn, case, as_float64(*tensors), grad_y.double())
    plain = results(reference.ldcn, case, tensors, grad_y)
    for name, actual in results(ldcn, case, tensors, grad_y).items():
        assert actual.dtype == dtype, name
        error, allowed = largest(actual - exact[name]), largest(plain[name] - exact[name])
        assert error <= tolerances.PLAIN_FACTOR * allowed, f"{name}: {error} against {allowed}"


@pytest.mark.parametrize("position_dtype", [torch.float32, None], ids=["positions float32", "positions half"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", [*LDCN_FEW, LDCN_STATISTICS], ids=str)
def test_half_costs_one_rounding(case, dtype, position_dtype):
    """Positions and sums are float32 for every dtype of x, so half precision only adds the rounding of each result."""
    tensors, grad_y = case.tensors(dtype, position_dtype=position_dtype), case.grad_y(dtype)
    exact = results(reference.ldcn, case, as_float64(*tensors), grad_y.double())
    for name, actual in results(ldcn, case, tensors, grad_y).items():
        wanted = dtype if name in ("y", "x") else position_dtype or dtype
        assert actual.dtype == wanted, name
        allowed = tolerances.HALF_SPACING[wanted] * exact[name].abs() + tolerances.FLOAT32_SUMS * largest(exact[name])
        excess = (actual - exact[name]).abs() - allowed
        assert largest(excess.clamp(min=0)) == 0, f"{name}: {largest(actual - exact[name])}"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounding_has_no_bias(dtype):
    tensors, grad_y = LDCN_STATISTICS.tensors(dtype), LDCN_STATISTICS.grad_y(dtype)
    exact = results(reference.ldcn, LDCN_STATISTICS, as_float64(*tensors), grad_y.double())
    unit = tolerances.HALF_SPACING[dtype]
    for name, actual in results(ldcn, LDCN_STATISTICS, tensors, grad_y).items():
        actual, expected = actual.double().flatten(), exact[name].flatten()
        some = expected != 0  # samples outside have no gradient
        assert some.sum() > 3500, name
        outward = ((actual - expected) / expected.abs() * expected.sign())[some].clamp(-unit, unit).mean().item()
        upward = ((actual - expected) / expected.abs())[some].clamp(-unit, unit).mean().item()
        assert abs(outward) < tolerances.BIAS * unit, f"{name}: {outward / unit} of half a spacing away from 0"
        assert abs(upward) < tolerances.BIAS * unit, f"{name}: {upward / unit} of half a spacing up"
        one_minus_cosine = 1 - (torch.dot(actual, expected) / actual.norm() / expected.norm()).item()
        assert one_minus_cosine < tolerances.COSINE * unit**2, f"{name}: {one_minus_cosine / unit**2}"


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_every_dtype_has_float32_positions(dtype):
    """x may have another dtype than offset, and mask another one again."""
    x, offset, mask = LDCN_STATISTICS.tensors()
    x, offset, mask = x.to(dtype), offset.float(), mask.bfloat16()
    y = ldcn(x, offset, mask)
    exact = reference.ldcn(x.double(), offset.double(), mask.double())
    spacing = tolerances.HALF_SPACING.get(dtype, 2.0**-53)
    sums = 1e-10 if dtype == torch.float64 else tolerances.FLOAT32_SUMS
    assert y.dtype == dtype
    assert largest(((y - exact).abs() - spacing * exact.abs()).clamp(min=0)) <= sums * largest(exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_half_precision_number_is_read_and_written_exactly(dtype):
    """A 1x1 kernel without displacement copies x: 65536 patterns, subnormals and infinities too; NaN stays NaN."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    x = (patterns << 16).view(torch.float32) if dtype == torch.float32 else patterns.to(torch.int16).view(dtype)
    for channels in (64, 2, 1):  # read by vectors of several widths
        # One pixel an image: a neighbor's weight is 0, and 0 * inf is NaN.
        pixels = x.view(-1, channels, 1, 1)
        y = ldcn(pixels, torch.zeros(pixels.shape[0], 2, 1, 1), kernel_size=1, padding=0)
        assert torch.equal(y.isnan(), pixels.isnan())
        assert torch.equal(y[~y.isnan()], pixels[~pixels.isnan()])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounds_to_nearest_even(dtype):
    """Against torch's own conversion of the float32 result, ties, overflow and subnormals among them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, generator=generator).mul(torch.logspace(-9, 5, 4096)).to(dtype)
    weight = torch.randn(4096, generator=generator)
    weight[::4] = 1 + 2.0 ** torch.randint(-12, -6, (1024,), generator=generator)  # many ties
    zero = torch.zeros(4096, 2, 1, 1)
    y = ldcn(x.view(-1, 1, 1, 1), zero, weight.view(-1, 1, 1, 1), kernel_size=1, padding=0)
    expected = (x.float() * weight).to(dtype)
    assert torch.equal(y.flatten(), expected)
    assert dtype == torch.bfloat16 or (expected.isinf().any() and (expected.abs() < 2.0**-14).any())
