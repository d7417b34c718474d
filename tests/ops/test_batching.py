"""torch.vmap over ldcn and deform_conv2d equals a Python loop, with gradients, and without vmap's slow fallback."""

import itertools
import warnings

import pytest
import torch
from ops import tolerances
from ops.op_cases import PLAIN, PLAIN_CONV, DeformConv2dCase, LdcnCase
from torch import Tensor

from dkic.ops import deform_conv2d, ldcn

CONV = DeformConv2dCase("groups", groups=2, depth=4, weight_groups=2, out_channels=6, height=5, width=4, stride=(2, 1))
LDCN = LdcnCase("stride", height=5, width=4, stride=(2, 1))
SIZE = 3  # of the vmapped dimension


@pytest.fixture(autouse=True)
def no_fallback():
    """vmap's fallback, a loop, warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def op_of(case: LdcnCase):
    """The op of positional tensors."""
    if isinstance(case, DeformConv2dCase):
        return lambda x, offset, weight, bias, mask: deform_conv2d(x, offset, weight, bias, **case.geometry, mask=mask)
    return lambda x, offset, mask: ldcn(x, offset, mask, **case.geometry)


def batched(tensors: tuple[Tensor | None, ...], in_dims: tuple[int | None, ...]) -> tuple[Tensor | None, ...]:
    """Tensors with SIZE variants along the dimensions given."""
    variants = [0.5, 1.0, 1.5]
    return tuple(
        t if dim is None else torch.stack([t * v for v in variants], dim) for t, dim in zip(tensors, in_dims, strict=True)
    )


def loop(op, tensors: tuple[Tensor | None, ...], in_dims: tuple[int | None, ...]):
    """What vmap(op, in_dims) gives, call by call."""
    calls = [op(*(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True))) for i in range(SIZE)]
    return torch.stack(calls) if isinstance(calls[0], Tensor) else tuple(map(torch.stack, zip(*calls, strict=True)))


ALL_LDCN = [dims for dims in itertools.product((0, None), repeat=3) if any(dim is not None for dim in dims)]
ALL_CONV = [dims for dims in itertools.product((0, None), repeat=5) if any(dim is not None for dim in dims)]
IN_DIMS = [
    *((case, dims) for case in (PLAIN, LDCN) for dims in ALL_LDCN),
    (PLAIN, (2, 4, 1)),
    *((case, dims) for case in (PLAIN_CONV, CONV) for dims in ALL_CONV),
    (CONV, (1, 2, 3, 1, 4)),
    (CONV, (4, 0, 2, None, 1)),
]


@pytest.mark.parametrize(("case", "in_dims"), IN_DIMS, ids=str)
def test_equals_a_loop(case, in_dims):
    tensors = batched(case.tensors(), in_dims)
    torch.testing.assert_close(
        torch.vmap(op_of(case), in_dims)(*tensors), loop(op_of(case), tensors, in_dims), **tolerances.FLOAT64
    )


@pytest.mark.parametrize(("case", "in_dims"), IN_DIMS, ids=str)
def test_per_sample_gradients_equal_a_loop(case, in_dims):
    """The gradient of each call with respect to everything, whether it is vmapped or not."""
    tensors = batched(case.tensors(), in_dims)
    grad_y = case.grad_y()
    gradient = torch.func.grad(lambda *given: (op_of(case)(*given) * grad_y).sum(), tuple(range(len(tensors))))
    actual, expected = torch.vmap(gradient, in_dims)(*tensors), loop(gradient, tensors, in_dims)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("wanted", range(5))
def test_one_gradient_alone(wanted):
    in_dims = (0, 0, None, None, 0)
    tensors = batched(CONV.tensors(), in_dims)
    gradient = torch.func.grad(lambda *given: op_of(CONV)(*given).square().sum(), wanted)
    actual, expected = torch.vmap(gradient, in_dims)(*tensors), loop(gradient, tensors, in_dims)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("case", [PLAIN, CONV], ids=str)
def test_gradients_of_a_vmapped_call(case):
    """The inverse order: reverse mode through a vmap, summed over dimensions that are not vmapped."""
    in_dims = (0, 0, None, None, 0)[: len(case.tensors())]
    tensors = [t.requires_grad_() for t in batched(case.tensors(), in_dims)]
    actual, expected = (
        torch.autograd.grad(y.square().sum(), tensors)
        for y in (torch.vmap(op_of(case), in_dims)(*tensors), loop(op_of(case), tuple(tensors), in_dims))
    )
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("case", [PLAIN, CONV], ids=str)
def test_vmap_within_vmap(case):
    op, count = op_of(case), len(case.tensors())
    outer, inner = (0,) + (None,) * (count - 1), (None, 0) + (None,) * (count - 2)
    tensors = batched(batched(case.tensors(), inner), outer)
    actual = torch.vmap(torch.vmap(op, inner), outer)(*tensors)
    expected = loop(lambda *given: loop(op, given, inner), tensors, outer)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("case", [LdcnCase("", masked=False), DeformConv2dCase("", masked=False, biased=False)])
def test_without_mask_and_bias(case):
    in_dims = tuple(None if t is None else 0 for t in case.tensors())
    tensors = batched(case.tensors(), in_dims)
    torch.testing.assert_close(
        torch.vmap(op_of(case), in_dims)(*tensors), loop(op_of(case), tensors, in_dims), **tolerances.FLOAT64
    )


def test_jacrev():
    x, offset, mask = LdcnCase("", batch=1, groups=1, depth=2, height=3, width=2).tensors()
    actual = torch.func.jacrev(lambda x: ldcn(x, offset, mask))(x)
    expected = torch.autograd.functional.jacobian(lambda x: ldcn(x, offset, mask), x)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)
