"""ldcn's CUDA kernels, run on the CPU by the emulator, equal the reference."""

import math
from pathlib import Path

import pytest
import torch
from ops.layouts import channel_slice, channels_last, channels_last_slice, every_second, rows_and_columns_swapped
from ops.ldcn_parity import assert_close, of_reference
from ops.op_cases import LDCN_CASES, LDCN_FEW, PLAIN, LdcnCase
from simt.compilers import SANITIZERS, SIMT, compile_once, needs_emulator
from simt.ldcn_program import run
from torch import Tensor

pytestmark = needs_emulator

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return compile_once(tmp_path_factory, SIMT / "ldcn_main.cpp")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    return compile_once(tmp_path_factory, SIMT / "ldcn_main.cpp", *SANITIZERS)


def problem(
    case: LdcnCase, dtype: torch.dtype, position_dtype: torch.dtype | None = None
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    x, offset, mask = case.tensors(dtype, position_dtype=position_dtype)
    return (channels_last(x), offset, mask), channels_last(case.grad_y(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_CASES, ids=str)
def test_equals_reference(program, case, dtype):
    tensors, grad_y = problem(case, dtype)
    expected = of_reference(case, tensors, grad_y)
    one = run(program, case, tensors, grad_y, order="forward")
    # Again with few blocks, each with several work items, which detects stale shared memory from the previous item.
    other = run(program, case, tensors, grad_y, order="shuffled", blocks=2)
    assert_close(one.tensors, expected)
    assert_close(other.tensors, expected)
    assert_close([one.tensors[0], one.fixed], expected[:2])
    assert torch.equal(one.fixed, other.fixed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_under_sanitizers(sanitized, case, dtype):
    tensors, grad_y = problem(case, dtype)
    assert_close(run(sanitized, case, tensors, grad_y, order="reverse", blocks=3).tensors, of_reference(case, tensors, grad_y))


# ---- Vectors and layouts ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vectors_are_as_wide_as_alignment_lets_them_be(program, dtype):
    """16 bytes, or less if the group depth or the alignment of x requires it."""
    most = 16 // dtype.itemsize
    for depth, lead, wanted in [(16, 0, most), (16, 2, min(2, most)), (16, 1, 1), (12, 0, min(4, most)), (6, 0, 2), (5, 0, 1)]:
        case = LdcnCase("small", batch=1, depth=depth, height=4, width=5)
        tensors, grad_y = problem(case, dtype)
        results = run(program, case, tensors, grad_y, order="reverse", lead=lead)
        assert results.vector == wanted, (depth, lead)
        assert_close(results.tensors, of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", ["x", "grad_y"])
@pytest.mark.parametrize("more", [1, 2])
def test_pixels_that_lie_an_odd_distance_apart(program, which, more, dtype):
    """A channel slice of a wider tensor: the alignment differs between pixels."""
    case = LdcnCase("small", batch=1, depth=16, height=4, width=5)
    (x, offset, mask), grad_y = problem(case, dtype)
    wide = {"x": x, "grad_y": grad_y}
    wide[which] = channels_last(torch.cat([wide[which], wide[which][:, :more]], 1))[:, : case.channels]
    assert wide[which].stride(3) == case.channels + more
    results = run(program, case, (wide["x"], offset, mask), wide["grad_y"], order="forward")
    assert results.vector == (more if which == "x" else 16 // dtype.itemsize)
    assert_close(results.tensors, of_reference(case, (x, offset, mask), grad_y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounds_of_channels_over_chunks_of_taps(sanitized, dtype):
    """More channels than lanes in a warp, and more taps than shared memory holds: taps are computed again."""
    case = LdcnCase("large", batch=1, groups=1, depth=33, height=5, width=4, kernel_size=(13, 13), padding=(6, 6))
    tensors, grad_y = problem(case, dtype)
    results = run(sanitized, case, tensors, grad_y, order="shuffled", blocks=2)
    assert results.vector == 1
    assert_close(results.tensors, of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("position_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_offset_and_mask_of_any_type_and_layout(program, dtype, position_dtype):
    (x, offset, mask), grad_y = problem(PLAIN, dtype, position_dtype)
    expected = of_reference(PLAIN, (x, offset, mask), grad_y)
    offsets = [channels_last(offset), channel_slice(offset), every_second(offset), rows_and_columns_swapped(offset)]
    # Pairs (dy, dx) that are not aligned to one access: an odd pixel stride, and an odd first element.
    first, last = offset[:, :1], offset[:, -1:]
    offsets += [channels_last(torch.cat([offset, last], 1))[:, :-1], channels_last(torch.cat([first, offset, last], 1))[:, 1:-1]]
    masks = [channels_last_slice(mask), mask, every_second(mask), channels_last(mask), mask, mask]
    for tensors in zip([x] * 6, offsets, masks, strict=True):
        actual = run(program, PLAIN, tensors, grad_y, order="shuffled").tensors
        assert [t.dtype for t in actual] == [dtype, dtype, position_dtype, position_dtype]
        if dtype != torch.float64:  # which sums in float32
            actual = [t.float() if t.dtype == torch.float64 else t for t in actual]
        assert_close(actual, expected)


def test_slices_of_wider_tensors(sanitized):
    """x and grad_y as channel slices of wider tensors."""
    (x, offset, mask), grad_y = problem(PLAIN, torch.float32)
    expected = of_reference(PLAIN, (x, offset, mask), grad_y)
    tensors = channels_last_slice(x), channels_last_slice(offset), mask
    assert_close(run(sanitized, PLAIN, tensors, channels_last_slice(grad_y), order="forward").tensors, expected)


# ---- Positions ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_positions_on_integers_and_at_the_edge(program, dtype):
    """Integer offsets put many samples exactly on a border, at -1 and at the size."""
    (x, offset, mask), grad_y = problem(PLAIN, dtype)
    tensors = x, offset.round(), mask
    assert_close(run(program, PLAIN, tensors, grad_y, order="forward").tensors, of_reference(PLAIN, tensors, grad_y))


@pytest.mark.parametrize("far", [1e9, -1e9, 1e30, -1e30, math.inf, -math.inf])
def test_far_outside_is_zero(sanitized, far):
    (x, offset, mask), grad_y = problem(PLAIN, torch.float32)
    offset.view(2, -1, 2, 7, 9)[:, ::3, 0] = far
    offset.view(2, -1, 2, 7, 9)[:, 1::3, 1] = far
    tensors = x, offset, mask
    results = run(sanitized, PLAIN, tensors, grad_y, order="forward").tensors
    assert all(t.isfinite().all() for t in results)
    assert_close(results, of_reference(PLAIN, tensors, grad_y))


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_stays_in_its_pixel(sanitized, axis):
    (x, offset, mask), grad_y = problem(PLAIN, torch.float32)
    expected = run(sanitized, PLAIN, (x, offset, mask), grad_y, order="forward").tensors[0]
    offset[1, 2 * 4 + axis, 3, 5] = math.nan  # the center tap of group 0
    results = run(sanitized, PLAIN, (x, offset, mask), grad_y, order="forward").tensors
    y = results[0]
    assert_close(results, of_reference(PLAIN, (x, offset, mask), grad_y))
    reached = torch.zeros(y.shape, dtype=torch.bool)
    reached[1, 0:3, 3, 5] = True
    assert torch.equal(y.isnan(), reached) and torch.equal(y[~reached], expected[~reached])


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("place", [(0, 0), (6, 8), (3, 4)])
def test_what_is_not_sampled_does_not_matter(program, place, bad):
    (x, offset, mask), grad_y = problem(PLAIN, torch.float64)
    x[1, 0, place[0], place[1]] = bad
    tensors = x, offset, mask
    actual = run(program, PLAIN, tensors, grad_y, order="forward").tensors
    # inf minus inf or inf: that depends on the order of the sums
    actual, expected = (
        [torch.where(t.isfinite(), t, math.nan) for t in r] for r in (actual, of_reference(PLAIN, tensors, grad_y))
    )
    assert actual[0].isnan().any() and not actual[1].isnan().any()
    assert_close(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_does_not_change_y_nor_the_samples_gradients(program, dtype):
    tensors, grad_y = problem(LDCN_FEW[-1], dtype)
    expected = run(program, LDCN_FEW[-1], tensors, grad_y, order="forward").tensors
    for order in ("reverse", "shuffled"):
        actual = run(program, LDCN_FEW[-1], tensors, grad_y, order=order, blocks=1).tensors
        assert all(torch.equal(actual[i], expected[i]) for i in (0, 2, 3))


# ---- The gradient of x from integer sums ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_sums_of_floats_depend_on_the_order_and_those_of_integers_do_not(program, dtype):
    case = LDCN_FEW[0]
    tensors, grad_y = problem(case, dtype)
    results = [run(program, case, tensors, grad_y, order=order) for order in ("forward", "reverse", "shuffled")]
    assert not all(torch.equal(r.tensors[1], results[0].tensors[1]) for r in results)
    assert all(torch.equal(r.fixed, results[0].fixed) for r in results)


@pytest.mark.parametrize(
    "dtype, value",
    [*((torch.float32, v) for v in (1e-30, -1.0, 1e30, 3e38)), *((torch.float64, v) for v in (1e-250, -1e300, 1e308))],
)
@pytest.mark.parametrize("mask_value", [None, 1.0, 2.0**-70, 2.0**70])
def test_the_largest_sum_there_can_be(sanitized, dtype, value, mask_value):
    """Every tap of every position adds the largest possible contribution to one pixel."""
    case = LdcnCase("all to one", batch=1, groups=1, depth=2, height=1, width=1, kernel_size=(5, 5), padding=(4, 4))
    (x, offset, mask), grad_y = problem(case, dtype)
    ho, wo = case.out_size
    row = torch.arange(5).view(5, 1, 1, 1) + torch.arange(ho).view(ho, 1) - 4
    column = torch.arange(5).view(1, 5, 1, 1) + torch.arange(wo) - 4
    offset = -torch.stack(torch.broadcast_tensors(row, column), 2).reshape(offset.shape).to(dtype)
    mask = None if mask_value is None else torch.full_like(mask, mask_value)
    grad_y = torch.full_like(grad_y, value)
    fixed = run(sanitized, case, (x, offset, mask), grad_y, order="forward").fixed
    contribution = grad_y[0, 0, 0, 0] * (1.0 if mask_value is None else mask_value)
    exact = (625 * contribution.double()).to(dtype) if contribution.isfinite() else torch.tensor(math.nan, dtype=dtype)
    spacing, lost = (2.0**-52, 0) if dtype == torch.float64 else (2.0**-23, 2.0**-118)
    torch.testing.assert_close(fixed, exact.expand(fixed.shape), rtol=spacing, atol=lost, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_shows_where_it_is_added(program, dtype):
    (x, offset, mask), grad_y = problem(PLAIN, dtype)
    grad_y[0, 1, 2, 3] = math.inf
    grad_y[1, 4, 0, 0] = math.nan
    expected = of_reference(PLAIN, (x, offset, mask), grad_y)[1]
    fixed = run(program, PLAIN, (x, offset, mask), grad_y, order="forward").fixed
    assert torch.equal(fixed.isfinite(), expected.isfinite()) and not fixed.isfinite().all()
    finite = expected.isfinite()
    assert_close([fixed.new_zeros(1), torch.where(finite, fixed, 0)], [expected.new_zeros(1), torch.where(finite, expected, 0)])
