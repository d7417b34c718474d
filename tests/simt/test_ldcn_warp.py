"""ldcn's kernels for fixed kernel sizes (csrc/cuda/ldcn_cuda_warp_* and ldcn_cuda_window_scatter.cuh), run by the emulator, equal
the reference."""

import math
import subprocess
from pathlib import Path

import pytest
import torch
from ops.ldcn_parity import assert_close, of_reference
from ops.op_cases import LDCN_WARP_CASES, LdcnCase
from simt.compilers import SANITIZERS, SIMT, compile_cpp, compile_once, needs_emulator
from simt.ldcn_program import Results, run
from torch import Tensor

from dkic.ops import ldcn_cuda_kernels

pytestmark = needs_emulator

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SMALL = LdcnCase("small", batch=2, groups=2, depth=16)
Tensors = tuple[Tensor, Tensor, Tensor | None]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return compile_once(tmp_path_factory, SIMT / "ldcn_main.cpp")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    return compile_once(tmp_path_factory, SIMT / "ldcn_main.cpp", *SANITIZERS)


def pixels_adjacent(t: Tensor) -> Tensor:
    """An NHWC copy with canonical strides also for axes of size 1."""
    n, c, h, w = t.shape
    return torch.empty_strided(t.shape, (h * w * c, 1, w * c, c), dtype=t.dtype).copy_(t)


def problem(case: LdcnCase, dtype: torch.dtype, position_dtype: torch.dtype | None = None) -> tuple[Tensors, Tensor]:
    x, offset, mask = case.tensors(dtype, position_dtype=position_dtype)
    mask = mask if mask is None else pixels_adjacent(mask)
    return (pixels_adjacent(x), pixels_adjacent(offset), mask), pixels_adjacent(case.grad_y(dtype))


def checked(
    program: Path, case: LdcnCase, tensors: Tensors, grad_y: Tensor, order: str = "forward", **options: int | bool
) -> Results:
    results = run(program, case, tensors, grad_y, order=order, **options)
    # The general kernel runs for sums over more than eight vectors of channels.
    assert results.warp_forward and results.warp_samples == (case.depth * tensors[0].itemsize <= 8 * 16)
    in_window = case.kernel_size == (3, 3) and case.stride == (1, 1) and case.depth in (16, 24, 32)
    assert results.window_scatter == in_window
    assert_explained(results, case, tensors)
    assert_close(results.tensors, of_reference(case, tensors, grad_y))
    return results


def assert_explained(results: Results, case: LdcnCase, tensors: Tensors) -> None:
    """`explain` names the kernels that ran."""
    lines = ldcn_cuda_kernels.explain(*tensors, case.kernel_size, case.stride).splitlines()
    assert [line.split(":")[1].split()[0] for line in lines] == [
        "warp" if results.warp_forward else "general",
        "warp" if results.warp_samples else "general",
        "window" if results.window_scatter else "general",
    ]
    assert all(("; " in line) == ("general" in line) for line in lines)


@pytest.mark.parametrize("float_offset", [False, True], ids=["", "float offset"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_WARP_CASES, ids=str)
def test_equals_reference(program, case, dtype, float_offset):
    tensors, grad_y = problem(case, dtype, torch.float32 if float_offset else dtype)
    one = checked(program, case, tensors, grad_y)
    # Several tiles per block, and no vector atomics.
    other = checked(program, case, tensors, grad_y, "shuffled", blocks=2, vector_atomics=False)
    assert all(torch.equal(one.tensors[i], other.tensors[i]) for i in (0, 2, *((3,) if case.masked else ())))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_WARP_CASES[::3], ids=str)
def test_under_sanitizers(sanitized, case, dtype):
    checked(sanitized, case, *problem(case, dtype), "reverse", blocks=3)


# ---- Supported problems ----


def test_takes_what_it_is_compiled_for(program):
    def takes(tensors: Tensors, case: LdcnCase = SMALL, lead: int = 0) -> bool:
        grad_y = pixels_adjacent(case.grad_y(tensors[0].dtype))
        results = run(program, case, tensors, grad_y, order="forward", lead=lead)
        assert_close(results.tensors, of_reference(case, tensors, grad_y))
        if not lead:  # which moves the tensors of the emulator alone
            assert_explained(results, case, tensors)
        return results.warp_forward

    (x, offset, mask), _ = problem(SMALL, torch.float16)
    assert takes((x, offset, mask)) and takes((x, offset.float(), mask.float()))
    # a slice, as of the output of the convolution that computes both
    both = pixels_adjacent(torch.cat([offset, mask], 1))
    assert takes((x, both[:, : offset.shape[1]], both[:, offset.shape[1] :]))
    assert not takes((x, offset, mask), lead=1)
    assert not takes((x, offset.float(), mask))
    assert not takes((x, offset.bfloat16(), mask.bfloat16()))
    assert not takes((x, offset.contiguous(), mask)) and not takes((x, offset, mask.contiguous()))
    assert not takes((pixels_adjacent(torch.cat([x, x[:, :4]], 1))[:, : x.shape[1]], offset, mask))
    for other in (
        LdcnCase("depth", depth=12),
        LdcnCase("7x7", depth=16, kernel_size=(7, 7), padding=(3, 3)),
        LdcnCase("3x5", depth=16, kernel_size=(3, 5)),
    ):
        assert not takes(problem(other, torch.float16)[0], other)
    assert not takes(problem(SMALL, torch.float64)[0])


@pytest.mark.parametrize("more", [0, 1, 4])
def test_grad_y_may_lie_apart(program, more):
    """A channel slice of a wider tensor; the general kernel runs if pixel strides are not a multiple of the vector."""
    tensors, grad_y = problem(SMALL, torch.float32)
    wide = pixels_adjacent(torch.cat([grad_y, grad_y[:, :more]], 1))[:, : SMALL.channels]
    results = run(program, SMALL, tensors, wide, order="forward")
    assert results.warp_samples == (more % 4 == 0)
    assert_close(results.tensors, of_reference(SMALL, tensors, grad_y))


def test_no_positions(program):
    case = LdcnCase("none", groups=2, depth=16, height=2, padding=(0, 1))
    tensors, grad_y = problem(case, torch.float32)
    results = run(program, case, tensors, grad_y, order="forward")
    assert results.tensors[0].numel() == 0 and not results.warp_forward
    assert_close(results.tensors, of_reference(case, tensors, grad_y))


# ---- Positions ----


@pytest.mark.parametrize("case", [SMALL, LDCN_WARP_CASES[-3]], ids=str)
def test_positions_on_integers_and_at_the_edge(program, case):
    """Integer offsets put many samples exactly on a border, at -1 and at the size."""
    (x, offset, mask), grad_y = problem(case, torch.float32)
    checked(program, case, (x, offset.round(), mask), grad_y)


@pytest.mark.parametrize("shift", [2.0**-22, -(2.0**-22), 1e-30])
def test_positions_next_to_integers(program, shift):
    """y only: a position that float32 rounds to an integer has the gradient of the other side."""
    (x, offset, mask), grad_y = problem(SMALL, torch.float32)
    tensors = x, offset.round() + shift, mask
    results = run(program, SMALL, tensors, grad_y, order="forward")
    assert results.warp_forward
    assert_close(results.tensors[:1], of_reference(SMALL, tensors, grad_y)[:1])


@pytest.mark.parametrize("far", [1e9, -1e9, 1e30, -1e30, 3e38, -3e38, math.inf, -math.inf])
@pytest.mark.parametrize("case", [SMALL, LdcnCase("1x17", groups=2, depth=16, height=1, width=17)], ids=str)
def test_far_outside_is_zero(sanitized, case, far):
    (x, offset, mask), grad_y = problem(case, torch.float32)
    taps = offset.view(case.batch, -1, 2, case.height, case.width)
    taps[:, ::3, 0] = far
    taps[:, 1::3, 1] = far
    results = checked(sanitized, case, (x, offset, mask), grad_y)
    assert all(t.isfinite().all() for t in results.tensors)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("tap", [4, 8])
def test_nan_stays_in_its_pixel(sanitized, tap, axis):
    (x, offset, mask), grad_y = problem(SMALL, torch.float32)
    offset[1, 2 * tap : 2 * tap + 2, 3, 5] = 0
    expected = checked(sanitized, SMALL, (x, offset, mask), grad_y).tensors[0]
    offset[1, 2 * tap + axis, 3, 5] = math.nan
    y = checked(sanitized, SMALL, (x, offset, mask), grad_y).tensors[0]
    reached = torch.zeros(y.shape, dtype=torch.bool)
    reached[1, :16, 3, 5] = True
    assert torch.equal(y.isnan(), reached) and torch.equal(y[~reached], expected[~reached])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_lies_outside_does_not_matter(program, bad, dtype):
    """A position that is NaN on one axis and outside on the other; and a mask that is not finite, for a sample outside."""
    (x, offset, mask), grad_y = problem(SMALL, dtype)
    offset[0, 0, 2, 2], offset[0, 1, 2, 2] = math.nan, 100
    offset[1, 16, 6, 8], offset[1, 17, 6, 8] = -100, math.nan
    offset[0, 18, 1, 1], mask[0, 9, 1, 1] = 100, bad
    results = checked(program, SMALL, (x, offset, mask), grad_y)
    assert results.tensors[0].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("place", [(0, 0), (6, 8), (3, 4)])
def test_what_is_not_sampled_does_not_matter(program, place, bad, dtype):
    """Samples outside are clamped to the border with weight 0; 0 times infinity must not affect the result."""
    (x, offset, mask), grad_y = problem(SMALL, dtype)
    x[1, 3, place[0], place[1]] = bad
    tensors = x, offset, mask
    results = run(program, SMALL, tensors, grad_y, order="forward")
    actual = [torch.where(t.isfinite(), t, math.nan) for t in results.tensors]
    expected = [torch.where(t.isfinite(), t, math.nan) for t in of_reference(SMALL, tensors, grad_y)]
    # the sum of several infinities depends on the order
    assert results.warp_forward and results.warp_samples and actual[0].isnan().any() and not actual[0].isnan().all()
    assert_close(actual, expected)


# ---- The gradient of x in a window ----


@pytest.mark.parametrize("vector_atomics", [False, True])
@pytest.mark.parametrize("depth", [16, 24, 32])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_taps_in_and_outside_the_window(sanitized, depth, spread, vector_atomics):
    """From all taps of a block in a few pixels to almost none in its window."""
    size = {"height": 21, "width": 37} if depth == 24 else {"height": 7, "width": 9}
    case = LdcnCase("", groups=2, depth=depth, **size)
    tensors = tuple(map(pixels_adjacent, case.tensors(torch.float32, spread=spread)))
    grad_y = pixels_adjacent(case.grad_y(torch.float32))
    checked(sanitized, case, tensors, grad_y, "shuffled", blocks=2, vector_atomics=vector_atomics)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [(0, 0), (6, 8), (3, 4)])
def test_gradients_that_are_not_finite_go_to_corners_alone(program, place, dtype):
    """Contributions to samples of weight 0 would be NaN."""
    (x, offset, mask), grad_y = problem(SMALL, dtype)
    row, column = place
    grad_y[0, 1, row, column] = math.inf
    mask[1, 3, row, column] = math.nan
    offset[1, 18, column // 2, row] = math.nan
    tensors = x, offset, mask
    actual = run(program, SMALL, tensors, grad_y, order="forward").tensors[1]
    expected = of_reference(SMALL, tensors, grad_y)[1]
    assert torch.equal(actual.isfinite(), expected.isfinite()) and not actual.isfinite().all()
    finite = expected.isfinite()
    assert_close([x, torch.where(finite, actual, 0)], [x.double(), torch.where(finite, expected, 0)])


# ---- Arithmetic ----


def test_division_by_multiplication_is_exact(tmp_path):
    divisors = compile_cpp(SIMT / "divisors.cpp", tmp_path / "divisors")
    done = subprocess.run([divisors], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
