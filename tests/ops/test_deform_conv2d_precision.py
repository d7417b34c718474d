"""Errors of dkic.ops.deform_conv2d in float32, float16 and bfloat16 are within its contract."""

import pytest
import torch
from ops import tolerances
from ops.op_cases import DEFORM_CONV2D_FEW, DEFORM_CONV2D_STATISTICS, DeformConv2dCase
from ops.test_deform_conv2d import results
from torch import Tensor

from dkic.ops import deform_conv2d, reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = [torch.float16, torch.bfloat16]


def tensors_of(
    case: DeformConv2dCase, dtype: torch.dtype, *, position_dtype: torch.dtype | None = None
) -> tuple[Tensor | None, ...]:
    """The case's tensors with offsets in 64ths of a pixel, so that float32 does not round a position to another pixel: there
    the gradients of offset have a step."""
    x, offset, *others = case.tensors(dtype, position_dtype=position_dtype)
    return x, offset.float().mul(64).round().div(64).to(offset.dtype), *others


def as_float64(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(t if t is None else t.double() for t in tensors)


def largest(t: Tensor) -> float:
    return t.abs().max().item()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEFORM_CONV2D_FEW, ids=str)
def test_error_beside_plain_pytorch(case, dtype):
    """All in one dtype: against the reference in float64, at most twice the reference's own error in that dtype.

    As root mean squares (measured: at most 1.1 times); the largest of thousands of errors is a random value, and may be twice
    that.
    """
    tensors, grad_y = case.tensors(dtype, spread=1.0), case.grad_y(dtype)
    exact = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    plain = results(reference.deform_conv2d, case, tensors, grad_y)
    for name, actual in results(deform_conv2d, case, tensors, grad_y).items():
        assert actual.dtype == dtype, name
        error, allowed = actual - exact[name], plain[name] - exact[name]
        assert error.norm() <= tolerances.PLAIN_FACTOR * allowed.norm(), f"{name}: {error.norm()} against {allowed.norm()}"
        assert largest(error) <= 2 * tolerances.PLAIN_FACTOR * largest(allowed), f"{name}: {largest(error)}"


@pytest.mark.parametrize("position_dtype", [torch.float32, None], ids=["positions float32", "positions half"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", [*DEFORM_CONV2D_FEW, DEFORM_CONV2D_STATISTICS], ids=str)
def test_half_costs_one_rounding(case, dtype, position_dtype):
    """Positions, products and sums are float32 for every dtype, so half precision only adds the rounding of each result."""
    tensors, grad_y = tensors_of(case, dtype, position_dtype=position_dtype), case.grad_y(dtype)
    exact = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    for name, actual in results(deform_conv2d, case, tensors, grad_y).items():
        wanted = position_dtype or dtype if name in ("offset", "mask") else dtype
        assert actual.dtype == wanted, name
        allowed = tolerances.HALF_SPACING[wanted] * exact[name].abs() + tolerances.FLOAT32_SUMS * largest(exact[name])
        excess = (actual - exact[name]).abs() - allowed
        assert largest(excess.clamp(min=0)) == 0, f"{name}: {largest(actual - exact[name])}"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounding_has_no_bias(dtype):
    case = DEFORM_CONV2D_STATISTICS
    tensors, grad_y = tensors_of(case, dtype), case.grad_y(dtype)
    exact = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    unit = tolerances.HALF_SPACING[dtype]
    for name, actual in results(deform_conv2d, case, tensors, grad_y).items():
        actual, expected = actual.double().flatten(), exact[name].flatten()
        one_minus_cosine = 1 - (torch.dot(actual, expected) / actual.norm() / expected.norm()).item()
        assert one_minus_cosine < tolerances.COSINE * unit**2, f"{name}: {one_minus_cosine / unit**2}"
        if name == "bias":
            continue  # 20 numbers have no statistics
        some = expected != 0  # samples outside have no gradient
        assert some.sum() > 3500, name
        error = (actual - expected) / expected.abs()
        for direction, along in (("away from 0", error * expected.sign()), ("up", error)):
            mean = along[some].clamp(-unit, unit).mean().item()
            assert abs(mean) < tolerances.BIAS * unit, f"{name}: {mean / unit} of half a spacing {direction}"


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_every_dtype_has_float32_positions(dtype):
    """input may have another dtype than offset, and mask another one again."""
    x, offset, weight, bias, mask = DEFORM_CONV2D_STATISTICS.tensors(dtype)
    offset, mask = offset.float(), mask.bfloat16()
    y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    exact = reference.deform_conv2d(x.double(), offset.double(), weight.double(), bias.double(), padding=1, mask=mask.double())
    spacing = tolerances.HALF_SPACING.get(dtype, 2.0**-53)
    sums = 1e-10 if dtype == torch.float64 else tolerances.FLOAT32_SUMS
    assert y.dtype == dtype
    assert largest(((y - exact).abs() - spacing * exact.abs()).clamp(min=0)) <= sums * largest(exact)
