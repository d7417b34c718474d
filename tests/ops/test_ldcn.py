"""dkic.ops.ldcn equals its reference and torchvision, in every shape, layout and position."""

import math

import numpy as np
import pytest
import torch
from ops import tolerances
from ops.layouts import LAYOUTS
from ops.op_cases import LDCN_CASES, PLAIN, LdcnCase
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torchvision.ops import deform_conv2d

from dkic.ops import ldcn, reference

NAMES = ("x", "offset", "mask")


def torchvision_ldcn(x: Tensor, offset: Tensor, mask: Tensor | None, case: LdcnCase) -> Tensor:
    """torchvision's equivalent of ldcn: one weight group per channel, all weights 1."""
    weight = torch.ones(x.shape[1], 1, *case.kernel_size, dtype=x.dtype)
    return deform_conv2d(x, offset, weight, stride=case.stride, padding=case.padding, dilation=case.dilation, mask=mask)


def results(call, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> list[Tensor]:
    """y and the gradients of x, offset and mask (if present)."""
    tensors = tuple(t if t is None else t.detach().requires_grad_() for t in tensors)
    y = call(*tensors)
    return [y.detach(), *torch.autograd.grad(y, [t for t in tensors if t is not None], grad_y)]


def assert_all_close(actual: list[Tensor], expected: list[Tensor], **tolerance) -> None:
    for name, a, e in zip(("y", *NAMES), actual, expected, strict=False):
        torch.testing.assert_close(a, e, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def of_kernel(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor | None = None) -> list[Tensor]:
    return results(lambda *t: ldcn(*t, **case.geometry), tensors, case.grad_y() if grad_y is None else grad_y)


def of_reference(case: LdcnCase, tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    return results(lambda *t: reference.ldcn(*t, **case.geometry), tensors, case.grad_y())


def of_torchvision(case: LdcnCase, tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    return results(lambda *t: torchvision_ldcn(*t, case), tensors, case.grad_y())


@pytest.mark.parametrize("case", LDCN_CASES, ids=str)
def test_equals_reference(case):
    tensors = case.tensors()
    assert_all_close(of_kernel(case, tensors), of_reference(case, tensors), **tolerances.FLOAT64)


@pytest.mark.parametrize("case", LDCN_CASES, ids=str)
def test_equals_torchvision(case):
    tensors = case.tensors()
    assert_all_close(of_kernel(case, tensors), of_torchvision(case, tensors), **tolerances.FLOAT64)


def test_an_int_is_accepted_for_a_pair():
    x, offset, mask = PLAIN.tensors()
    expected = ldcn(x, offset, mask, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    assert torch.equal(ldcn(x, offset, mask), expected)
    assert torch.equal(ldcn(x, offset, mask, kernel_size=3, stride=[1, 1], padding=1, dilation=1), expected)
    one, three = np.int64(1), np.array([3, 3])
    assert torch.equal(ldcn(x, offset, mask, three, (one, True), one, torch.Size([1, 1])), expected)


# ---- Layouts ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [*NAMES, "grad_y"])
def test_any_layout_gives_the_same(which, layout):
    arguments = dict(zip(NAMES, PLAIN.tensors(), strict=True), grad_y=PLAIN.grad_y())
    expected = of_kernel(PLAIN, tuple(arguments[name] for name in NAMES), arguments["grad_y"])
    arguments[which] = layout(before := arguments[which])
    assert torch.equal(arguments[which], before) and arguments[which].stride() != before.stride()
    actual = of_kernel(PLAIN, tuple(arguments[name] for name in NAMES), arguments["grad_y"])
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("which", [*NAMES, "grad_y"])
@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_expanded_arguments(which, axes):
    arguments = dict(zip(NAMES, PLAIN.tensors(), strict=True), grad_y=PLAIN.grad_y())
    t = arguments[which]
    arguments[which] = t[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))].expand(t.shape)
    assert all(arguments[which].stride(axis) == 0 for axis in axes)
    actual = of_kernel(PLAIN, tuple(arguments[name] for name in NAMES), arguments["grad_y"])
    arguments[which] = arguments[which].contiguous()
    expected = of_kernel(PLAIN, tuple(arguments[name] for name in NAMES), arguments["grad_y"])
    assert all(map(torch.equal, actual, expected))


def test_gradient_of_a_sum():
    x, offset, mask = (t.requires_grad_() for t in PLAIN.tensors())
    ldcn(x, offset, mask).sum().backward()  # autograd expands a single 1 to grad_y
    ones = torch.ones(2, 6, 7, 9, dtype=torch.float64)
    expected = of_kernel(PLAIN, (x, offset, mask), ones)
    assert all(map(torch.equal, (x.grad, offset.grad, mask.grad), expected[1:]))


@pytest.mark.parametrize("wanted", ["x", "offset", "mask", "x offset", "offset mask"])
def test_only_the_gradients_that_are_wanted(wanted):
    tensors = PLAIN.tensors()
    expected = dict(zip(NAMES, of_kernel(PLAIN, tensors)[1:], strict=True))
    for name, t in zip(NAMES, tensors, strict=True):
        t.requires_grad_(name in wanted.split())
    ldcn(*tensors).backward(PLAIN.grad_y())
    for name, t in zip(NAMES, tensors, strict=True):
        assert torch.equal(t.grad, expected[name]) if name in wanted.split() else t.grad is None


@pytest.mark.parametrize("which", ["none", *NAMES, "all"])
@pytest.mark.parametrize(
    "case", [PLAIN, *(case for case in LDCN_CASES if case.name in ("batch 0", "image 1x1", "image 1x17", "one channel"))], ids=str
)
def test_results_have_the_memory_format_of_their_tensor(case, which):
    """y has the format of x, a gradient that of its tensor."""
    tensors = tuple(
        t.contiguous(memory_format=torch.channels_last) if which in ("all", name) else t
        for name, t in zip(NAMES, case.tensors(), strict=True)
    )
    for t, like in zip(of_kernel(case, tensors), (tensors[0], *tensors), strict=True):
        memory_format = suggest_memory_format(like)
        assert t.stride() == torch.empty(t.shape).to(memory_format=memory_format, copy=True).stride()


def test_the_result_of_a_contiguous_input_can_be_viewed():
    assert ldcn(*PLAIN.tensors()).view(2, -1).shape == (2, 6 * 7 * 9)


# ---- Positions ----


def moved_to(case: LdcnCase, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The case's tensors with offsets such that every sample lies at `position`, broadcast to [N, G, K, 2, Ho, Wo]."""
    x, offset, mask = case.tensors()
    ho, wo = case.out_size
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = case.geometry.values()
    row = torch.arange(kh).view(kh, 1, 1, 1) * dh + torch.arange(ho).view(ho, 1) * sh - ph
    column = torch.arange(kw).view(kw, 1, 1) * dw + torch.arange(wo) * sw - pw
    grid = torch.stack(torch.broadcast_tensors(row, column), 2).reshape(case.taps, 2, ho, wo)
    return x, (position - grid.double()).expand(case.batch, case.groups, -1, -1, -1, -1).reshape(offset.shape), mask


@pytest.mark.parametrize("case", [PLAIN, LdcnCase("stride 2x1", stride=(2, 1))], ids=str)
def test_offsets_on_integers(case):
    x, offset, mask = case.tensors()
    tensors = x, offset.round(), mask
    actual = of_kernel(case, tensors)
    assert_all_close(actual, of_reference(case, tensors), **tolerances.FLOAT64)
    # torchvision's offset gradient at exactly -1 is that of the inside; there the sample is outside already.
    inside = offset.round() + moved_to(case, torch.zeros(1))[1].neg() != -1
    expected = of_torchvision(case, tensors)
    along = inside.view(case.batch, -1, 2, *case.out_size).all(2, keepdim=True).expand(-1, -1, 2, -1, -1)
    expected[2] = torch.where(along.reshape(offset.shape), expected[2], actual[2])
    assert_all_close(actual, expected, **tolerances.FLOAT64)
    assert along.float().mean() > 0.5


@pytest.mark.parametrize("far", [1e9, -1e9, 1e300, math.inf, -math.inf])
@pytest.mark.parametrize("axis", ["rows", "columns", "both"])
def test_far_outside_is_zero(far, axis):
    x, offset, mask = PLAIN.tensors()
    axes = {"rows": [0], "columns": [1], "both": [0, 1]}[axis]
    offset.view(2, -1, 2, 7, 9)[:, ::3, axes] = far
    tensors = x, offset, mask
    actual = of_kernel(PLAIN, tensors)
    assert_all_close(actual, of_reference(PLAIN, tensors), **tolerances.FLOAT64)
    assert all(t.isfinite().all() for t in actual)
    assert not actual[2].view(2, -1, 2, 7, 9)[:, ::3].any() and not actual[3].view(2, -1, 7, 9)[:, ::3].any()
    if abs(far) == 1e9:  # beyond int32, torchvision's conversion is undefined
        assert_all_close(actual, of_torchvision(PLAIN, tensors), **tolerances.FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", [(-1, 3), (7, 3), (3, -1), (3, 9), (-1, -1), (7, 9)])
def test_at_the_edge_a_sample_is_outside(edge, dtype):
    """At exactly -1 and H (W), values and gradients are 0; just inside, there is a gradient."""
    inward = torch.tensor([{-1: 1, 7: -1}.get(edge[0], 0), {-1: 1, 9: -1}.get(edge[1], 0)])
    for step, found in ((0, False), (2.0**-10, True)):
        position = (torch.tensor(edge) + inward * step).view(2, 1, 1).double()
        tensors = tuple(t.to(dtype) for t in moved_to(PLAIN, position))
        y, *gradients = of_kernel(PLAIN, tensors, PLAIN.grad_y(dtype))
        assert [bool(t.any()) for t in (y, *gradients)] == [found] * 4
        torch.testing.assert_close(y.double(), torchvision_ldcn(*tensors, PLAIN).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_stays_in_its_pixel(axis):
    x, offset, mask = PLAIN.tensors(spread=0.1)
    expected = ldcn(x, offset, mask)
    offset[1, 2 * 4 + axis, 3, 5] = math.nan  # the middle tap of group 0
    actual = ldcn(x, offset, mask)
    reached = torch.zeros(actual.shape, dtype=torch.bool)
    reached[1, 0:3, 3, 5] = True
    assert torch.equal(actual.isnan(), reached)  # (torchvision 0.29 ends the process here)
    assert torch.equal(actual[~reached], expected[~reached])
    assert torch.equal(reference.ldcn(x, offset, mask).isnan(), reached)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("place", [(0, 0), (6, 8), (3, 4)])
def test_what_is_not_sampled_does_not_matter(place, bad):
    """inf or NaN in x affects only the samples that have it as a corner, for any weights."""
    x, offset, mask = PLAIN.tensors()
    clean = of_kernel(PLAIN, (x, offset, mask))
    x[1, 0, place[0], place[1]] = bad
    actual, expected = (
        [torch.where(t.isfinite(), t, math.nan) for t in of(PLAIN, (x, offset, mask))] for of in (of_kernel, of_reference)
    )  # inf minus inf or inf: that depends on the order of the sums
    assert_all_close(actual, expected, equal_nan=True, **tolerances.FLOAT64)
    reached = ~actual[0].isfinite()
    assert reached.any() and not reached[0].any() and not reached[1, 1:].any() and not reached.all()
    assert torch.equal(actual[0][~reached], clean[0][~reached])
    assert torch.equal(actual[1], clean[1])  # the gradient of x does not depend on x
