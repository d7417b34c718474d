"""ldcn's Triton kernels in Triton's interpreter; test_ldcn_triton.py runs this file.

The interpreter takes some 3 ms a program, whatever its size: so a program has more pixels here than on a GPU.
"""

from dataclasses import replace

import pytest
import torch
import triton.language as tl
from ops import interpreter, tolerances  # noqa: F401  (interpreter: faster)
from ops.layouts import LAYOUTS
from ops.op_cases import LDCN_CASES, PLAIN, LdcnCase
from ops.test_ldcn import NAMES, of_reference, results
from torch import Tensor

from dkic.ops import reference
from dkic.ops.triton import ldcn as ldcn_triton
from dkic.ops.triton import samples
from dkic.ops.triton.ldcn import backward, forward, powers_of

# Every way through a kernel; the others take long here.
NAMED = ("plain", "no mask", "kernel 3x2", "stride beyond x", "all of it", "batch 0", "image 1x1", "D 24", "D 33", "one channel")
CASES = [case for case in LDCN_CASES if case.name in NAMED]
TINY = LdcnCase("tiny", kernel_size=(1, 2), padding=(0, 1), height=4, width=5)


@pytest.fixture(autouse=True)
def pixels(request, monkeypatch):
    """Block sizes of a program; those of a GPU if the parameter is None."""
    if wanted := getattr(request, "param", 128):
        monkeypatch.setattr(ldcn_triton, "PIXELS", wanted)


def geometry_of(case: LdcnCase) -> list[list[int]]:
    return [list(pair) for pair in case.geometry.values()]


def outcome(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, deterministic: bool = False) -> list[Tensor]:
    """y and the gradients of x, offset and mask (if present)."""
    x, offset, mask = tensors
    needed = True, True, mask is not None
    gradients = backward(grad_y, x, offset, mask, *geometry_of(case), *needed, deterministic)
    return [forward(x, offset, mask, *geometry_of(case)), *gradients[: sum(needed)]]


def of_exact(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> list[Tensor]:
    tensors = tuple(None if t is None else t.double() for t in tensors)
    return results(lambda *t: reference.ldcn(*t, **case.geometry), tensors, grad_y.double())


def assert_close(actual: list[Tensor], exact: list[Tensor], dtypes: list[torch.dtype], sums: float) -> None:
    """Sums differ by `sums` of the largest, and a result is rounded once to its dtype."""
    for t, like, dtype in zip(actual, exact, dtypes, strict=True):
        assert t.dtype == dtype and t.shape == like.shape
        if t.numel():
            last = tolerances.HALF_SPACING.get(dtype, 0.0) * (
                2 if dtype == torch.bfloat16 else 1
            )  # the interpreter cuts digits off
            excess = (t.double() - like).abs() - last * like.abs() - sums * like.abs().max()
            assert excess.max() <= 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case):
    tensors = case.tensors()
    for actual, expected in zip(outcome(case, tensors, case.grad_y()), of_reference(case, tensors), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


# (The interpreter makes no constant of bfloat16, which NaN among integers is.)
@pytest.mark.parametrize(
    ("dtype", "deterministic"),
    [(torch.float32, False), (torch.float32, True), (torch.float16, False), (torch.float16, True), (torch.bfloat16, False)],
    ids=str,
)
@pytest.mark.parametrize("position", [torch.float32, torch.float16], ids=str)
def test_every_dtype(dtype, position, deterministic):
    tensors, grad_y = TINY.tensors(dtype, position_dtype=position), TINY.grad_y(dtype)
    actual = outcome(TINY, tensors, grad_y, deterministic)
    dtypes = [dtype, dtype, position, position]
    assert_close(actual, of_exact(TINY, tensors, grad_y), dtypes, tolerances.FLOAT32_SUMS)


@pytest.mark.parametrize("pixels", [None], indirect=True)
def test_programs_of_a_gpu(pixels):
    """Several blocks of pixels, channels and groups, each with a remainder."""
    case = LdcnCase("", batch=1, depth=67, height=3, width=13, kernel_size=(2, 1), padding=(1, 0))
    tensors = case.tensors()
    for actual, expected in zip(outcome(case, tensors, case.grad_y()), of_reference(case, tensors), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


# ---- By integers ----


@pytest.mark.parametrize(
    "case", [TINY, replace(TINY, name="batch 0", batch=0), replace(TINY, name="no mask", masked=False)], ids=str
)
def test_integers_give_the_reference(case):
    tensors = case.tensors()
    for actual, expected in zip(outcome(case, tensors, case.grad_y(), True), of_reference(case, tensors), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_sum_of_integers_can_overflow(size, dtype):
    """The largest possible contributions, with all taps on one pixel."""
    x, grad_y = torch.ones(1, 2, 1, 1, dtype=dtype), torch.full((1, 2, 1, 1), size, dtype=dtype)
    offset = torch.stack([1 - torch.arange(9) // 3, 1 - torch.arange(9) % 3], 1).view(1, 18, 1, 1).to(dtype)
    geometry = [3, 3], [1, 1], [1, 1], [1, 1]
    powers = powers_of(samples.samples_of("ldcn", x, offset, None, *geometry), grad_y).double()
    assert (powers[::2] * powers[1::2] == 1).all() and 9 * size * powers[0] < 2.0**62
    gradient = backward(grad_y, x, offset, None, *geometry, True, False, False, True)[0]
    torch.testing.assert_close(gradient, torch.full_like(x, 9 * size), rtol=1e-6, atol=0)


def test_what_is_not_finite_is_nan_by_integers():
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    clean = outcome(TINY, tensors, grad_y, True)[1]
    grad_y[0, 1, 2, 3] = torch.inf
    gradient = outcome(TINY, tensors, grad_y, True)[1]
    reached = gradient.isnan()
    assert reached[0, 1].any() and reached.sum() == reached[0, 1].sum()
    torch.testing.assert_close(gradient[~reached], clean[~reached], rtol=1e-6, atol=1e-6)


# ---- Layouts, positions, what guards memory ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout):
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    actual = outcome(TINY, tuple(layout(t) for t in tensors), layout(grad_y))
    for a, expected in zip(actual, outcome(TINY, tensors, grad_y), strict=True):
        assert torch.equal(a, expected)


def test_numbers_of_elements_of_64_bits_give_the_same(monkeypatch):
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    expected = outcome(TINY, tensors, grad_y)
    monkeypatch.setattr(samples, "index_of", lambda *tensors: tl.int64)
    assert all(map(torch.equal, outcome(TINY, tensors, grad_y), expected))


@pytest.mark.parametrize("far", [1e9, -1e300, torch.inf, -torch.inf])
def test_far_outside_is_zero(far):
    tensors = TINY.tensors()
    tensors[1][:, ::3] = far
    for actual, expected in zip(outcome(TINY, tensors, TINY.grad_y()), of_reference(TINY, tensors), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("spread", [2.0, 0.0])
def test_offsets_on_integers_and_borders(spread):
    x, offset, mask = PLAIN.tensors()
    tensors = x, offset.mul(spread).round(), mask
    for actual, expected in zip(outcome(PLAIN, tensors, PLAIN.grad_y()), of_reference(PLAIN, tensors), strict=True):
        torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


def test_nan_stays_in_its_pixel_and_group():
    x, offset, mask = TINY.tensors(spread=0.1)
    clean = forward(x, offset, mask, *geometry_of(TINY))
    offset[0, 1, 2, 3] = torch.nan
    y = forward(x, offset, mask, *geometry_of(TINY))
    reached = torch.zeros(y.shape, dtype=torch.bool)
    reached[0, : TINY.depth, 2, 3] = True
    assert y[reached].isnan().all() and torch.equal(y[~reached], clean[~reached])


@pytest.mark.parametrize("which", [*NAMES, "grad_y"])
def test_results_have_the_memory_format_of_their_tensor(which):
    given = dict(zip(NAMES, TINY.tensors(torch.float32), strict=True), grad_y=TINY.grad_y(torch.float32))
    given[which] = given[which].contiguous(memory_format=torch.channels_last)
    actual = outcome(TINY, tuple(given[name] for name in NAMES), given["grad_y"])
    for name, t in zip(("y", *NAMES), actual, strict=True):
        last = which in NAMES and name in (which, "y" if which == "x" else which)
        assert t.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), name


@pytest.mark.parametrize("wanted", range(3))
def test_only_the_gradients_that_are_wanted(wanted):
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    needed = [i == wanted for i in range(3)]
    gradients = backward(grad_y, *tensors, *geometry_of(TINY), *needed, False)
    for gradient, need, expected in zip(gradients, needed, outcome(TINY, tensors, grad_y)[1:], strict=True):
        assert torch.equal(gradient, expected) if need else gradient.shape == (0,)


def test_what_guards_memory():
    x, offset, mask = TINY.tensors(torch.float32)
    geometry = geometry_of(TINY)
    wrong = [(x[:, :5], offset, mask), (x[0], offset, mask), (x[:1], offset, mask), (x, offset[:, :-2], mask)]
    wrong += [(x, offset[:, :, 1:], mask), (x, offset, mask[:, 1:]), (x, offset, mask.to("meta"))]
    for tensors in wrong:
        with pytest.raises(RuntimeError, match="^ldcn/(x|offset|mask): "):
            forward(*tensors, *geometry)
    for number, pair in ((0, [0, 1]), (1, [0, 1]), (2, [-1, 0]), (3, [1, 2**24])):
        with pytest.raises(RuntimeError, match="^ldcn/(kernel_size|stride|padding|dilation): "):
            forward(x, offset, mask, *geometry[:number], pair, *geometry[number + 1 :])
    with pytest.raises(RuntimeError, match="grad_y must have"):
        backward(TINY.grad_y(torch.float32)[:, :1], x, offset, mask, *geometry, True, True, True, False)
