"""deform_conv2d's Triton kernels in Triton's interpreter; test_deform_conv2d_triton.py runs this file.

The interpreter takes some 3 ms a program, whatever its size: so tiles have more pixels here than on a GPU, but where they are
what is tested.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
import triton.language as tl
from ops import interpreter, tolerances  # noqa: F401  (interpreter: faster)
from ops.layouts import LAYOUTS
from ops.op_cases import DEFORM_CONV2D_CASES, TORCHVISION_CONV, DeformConv2dCase
from ops.test_deform_conv2d import NAMES, assert_all_equal, results
from ops.test_deform_conv2d_precision import as_float64, largest, tensors_of
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from dkic.ops import reference
from dkic.ops.triton import deform_columns, samples, tiles
from dkic.ops.triton import deform_conv2d as deform_conv2d_triton
from dkic.ops.triton.deform_conv2d import backward, forward, powers_of
from dkic.ops.triton.deform_problem import problem
from dkic.ops.triton.layouts import index_of

BARE = DeformConv2dCase("no mask, no bias", batch=1, masked=False, biased=False, kernel_size=(2, 2))
SMALL = replace(TORCHVISION_CONV, name="small", batch=2)
TINY = DeformConv2dCase("tiny", kernel_size=(1, 2), padding=(0, 1), weight_groups=2, height=4, width=5)
# Served by the fused kernels in half precision: several tiles of pixels, outputs of two powers of 2 and not whole, vectors of a
# product in several taps and runs; offset groups and weight groups that are equal, one within the other, and neither.
FUSED = DeformConv2dCase(
    "fused", batch=1, groups=2, depth=24, height=4, width=5, out_channels=40, kernel_size=(1, 2), padding=(0, 1)
)
FUSED_CASES = [
    FUSED,
    replace(FUSED, name="no mask, no bias", masked=False, biased=False, groups=1, depth=16),
    replace(FUSED, name="equal groups", weight_groups=2, out_channels=66),
    replace(FUSED, name="weight groups within an offset group", groups=1, depth=48, weight_groups=3, out_channels=48),
    replace(FUSED, name="neither within the other", weight_groups=3, out_channels=48),
]
# Two taps serve for the groups' numbers; what is left out takes long here, and no other way through a kernel.
SLOW = ("13x13", "as large as x", "padding beyond", "many blocks", "three strips", "no bias", "weight groups", "torchvision")
SINGLE = [case for case in DEFORM_CONV2D_CASES if not any(words in case.name for words in SLOW)]
# Equal, one within the other, and neither.
SEVERAL = ("G 1 D 67", "G 4 D 3", "G 3 D 4", "G 2 D 64", "G 8 D 24")
GROUPS = [case for case in DEFORM_CONV2D_CASES if case.name.startswith(SEVERAL)]
CASES = [
    *(replace(case, groups=1) for case in SINGLE),
    *(replace(case, kernel_size=(1, 2), padding=(0, 1)) for case in GROUPS),
    SMALL,
    replace(SMALL, name="batch 0", batch=0),
    BARE,
    replace(BARE, name="padding beyond the kernel", padding=(3, 4)),
]


@pytest.fixture(autouse=True)
def pixels(request, monkeypatch):
    """Tile sizes; the GPU's defaults if the parameter is None."""
    if wanted := getattr(request, "param", 128):
        for by_capability in tiles.DEFAULTS.values():
            for major, default in by_capability.items():
                monkeypatch.setitem(by_capability, major, replace(default, pixels=wanted))
        for kernel, default in tiles.SMALLER.items():
            monkeypatch.setitem(tiles.SMALLER, kernel, replace(default, pixels=wanted))


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """Works around the interpreter, which multiplies the bits of bfloat16 numbers as integers."""
    multiply = InterpreterBuilder.create_dot

    def widened(self, a, b, *others):
        if a.data.dtype == np.uint16:
            a, b = (TensorHandle((t.data.astype(np.uint32) << 16).view(np.float32), tl.float32) for t in (a, b))
        return multiply(self, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", widened)


def outcome(
    case: DeformConv2dCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, deterministic: bool = False
) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    x, offset, weight, bias, mask = tensors
    geometry = [list(pair) for pair in case.geometry.values()]
    gradients = backward(grad_y, x, offset, weight, mask, *geometry, *(t is not None for t in tensors), deterministic)
    named = zip(NAMES, gradients, tensors, strict=True)
    return {"y": forward(*tensors, *geometry), **{name: gradient for name, gradient, t in named if t is not None}}


def assert_as_the_reference(case: DeformConv2dCase, dtype: torch.dtype, deterministic: bool = False, **options) -> None:
    tensors, grad_y = tensors_of(case, dtype, **options), case.grad_y(dtype)
    exact = results(reference.deform_conv2d, case, as_float64(tensors), grad_y.double())
    actual = outcome(case, tensors, grad_y, deterministic)
    assert actual.keys() == exact.keys()
    # Rounding of samples, operands of the products, may add up; y and the gradient of weight are bound by it.
    rounded = tolerances.HALF_SPACING.get(dtype, 0.0) if dtype.itemsize == 2 else 0.0
    if dtype == torch.bfloat16:
        rounded *= 2  # the interpreter cuts digits off where a GPU rounds
    sums = 1e-13 if dtype == torch.float64 else tolerances.FLOAT32_SUMS
    magnitudes = magnitudes_of_products(case, as_float64(tensors), grad_y.double()) if rounded and exact["y"].numel() else {}
    for name, t in actual.items():
        like = exact[name]
        given = tensors[NAMES.index(name)].dtype if name in NAMES else dtype
        assert t.shape == like.shape and t.dtype == given and t.is_contiguous(), name
        if not t.numel():
            continue
        last = tolerances.HALF_SPACING.get(given, 0.0) * (2 if given == torch.bfloat16 else 1)
        allowed = last * like.abs() + sums * largest(like) + rounded * magnitudes.get(name, torch.zeros(()))
        excess = ((t - like).abs() - allowed).clamp(min=0)
        assert largest(excess) == 0, f"{name}: {largest(t - like)} of {largest(like)}"


def magnitudes_of_products(case: DeformConv2dCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> dict[str, Tensor]:
    """y and the gradient of weight, computed from magnitudes."""
    x, offset, weight, _, mask = tensors
    size = {"kernel_size": case.kernel_size, **case.geometry}
    columns = reference.samples(x, offset, mask, **size).abs().unflatten(1, (case.weight_groups, -1))  # [n, g, c, k, h, w]
    w = weight.abs().flatten(2).unflatten(0, (case.weight_groups, -1))
    g = grad_y.abs().unflatten(1, (case.weight_groups, -1))
    y = torch.einsum("ngckhw,gock->ngohw", columns, w).flatten(1, 2)
    return {"y": y, "weight": torch.einsum("ngckhw,ngohw->gock", columns, g).reshape(weight.shape)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case):
    assert_as_the_reference(case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [TINY, BARE], ids=str)
def test_every_dtype(case, dtype):
    assert_as_the_reference(case, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", FUSED_CASES, ids=str)
def test_half_precision_fused(case, dtype):
    x, offset, weight, _, mask = case.tensors(dtype)
    assert problem(x, offset, weight, mask, *case.geometry.values()).fused
    assert_as_the_reference(case, dtype, position_dtype=torch.float32)


@pytest.mark.parametrize("pixels", [16], indirect=True)
def test_several_tiles_and_parts(pixels, monkeypatch):
    monkeypatch.setattr(deform_conv2d_triton, "PART", 8)
    assert_as_the_reference(FUSED, torch.float16, position_dtype=torch.float32)


@pytest.mark.parametrize("pixels", [16], indirect=True)
@pytest.mark.parametrize("programs", [1, 1000])
@pytest.mark.parametrize("case", [TINY, BARE], ids=str)
def test_several_blocks_of_columns(case, programs, pixels, monkeypatch):
    """The last block is smaller than the others; all taps per program, and one tap per program."""
    monkeypatch.setattr(deform_columns, "WORKSPACE", 1)
    monkeypatch.setattr(deform_columns, "ROWS", 16)
    monkeypatch.setattr(deform_columns, "PROGRAMS", programs)
    assert_as_the_reference(case, torch.float32)


# ---- By integers ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", [TINY, replace(TINY, name="batch 0", batch=0)], ids=str)
def test_gradients_by_integers(case, dtype):
    assert_as_the_reference(case, dtype, deterministic=True)


def test_gradients_by_integers_fused():
    assert_as_the_reference(FUSED, torch.float16, deterministic=True, position_dtype=torch.float32)


@pytest.mark.parametrize("pixels", [16], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_integers_do_not_depend_on_the_order(dtype, pixels, monkeypatch):
    """Checks that the order matters: float sums differ in the last digits."""
    x, offset, weight, _, mask = TINY.tensors(dtype)
    args = TINY.grad_y(dtype), x, offset, weight, mask, *map(list, TINY.geometry.values()), True, False, False, False, False
    forwards = [backward(*args, fixed)[0] for fixed in (True, False)]
    place = InterpreterBuilder.set_grid_idx
    monkeypatch.setattr(InterpreterBuilder, "set_grid_idx", lambda self, x, y, z: place(self, self.grid_dim[0] - 1 - x, y, z))
    backwards = [backward(*args, fixed)[0] for fixed in (True, False)]
    assert torch.equal(forwards[0], backwards[0]) and not torch.equal(forwards[1], backwards[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
def test_no_sum_of_integers_can_overflow(size, dtype):
    """The largest possible contributions, with all taps on one pixel."""
    x = torch.ones(1, 2, 1, 1, dtype=dtype)
    grad_y, weight = torch.full((1, 3, 1, 1), size, dtype=dtype), torch.full((3, 2, 3, 3), 2.0, dtype=dtype)
    offset = torch.stack([1 - torch.arange(9) // 3, 1 - torch.arange(9) % 3], 1).view(1, 18, 1, 1).to(dtype)
    geometry = [1, 1], [1, 1], [1, 1]
    powers = powers_of(problem(x, offset, weight, None, *geometry), grad_y).double()
    assert (powers[::2] * powers[1::2] == 1).all() and (powers.log2() % 1 == 0).all()
    total = 9 * 3 * 2 * size  # what comes to x's only pixel
    assert total * powers[0] < 2.0**62 and (size < 1e-20 or total * powers[0] > 2.0**55)
    gradient = backward(grad_y, x, offset, weight, None, *geometry, True, False, False, False, False, True)[0]
    torch.testing.assert_close(gradient, torch.full_like(x, total), rtol=1e-6, atol=0)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_not_finite_is_nan_by_integers(number):
    x, offset, weight, _, _ = BARE.tensors(torch.float32, spread=0.0)
    grad_y = BARE.grad_y(torch.float32)
    args = x, offset, weight, None, *map(list, BARE.geometry.values()), True, False, False, False, False, True
    clean = backward(grad_y, *args)[0]
    grad_y[0, 1, 3, 4] = number
    gradient = backward(grad_y, *args)[0]
    reached = torch.zeros(x.shape, dtype=torch.bool)
    reached[0, :, 2:5, 3:6] = True  # weights of 0 too
    assert gradient[reached].isnan().all()
    torch.testing.assert_close(gradient[~reached], clean[~reached], rtol=1e-6, atol=1e-6)


# ---- Layouts, positions, what guards memory ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same(layout):
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    laid_out = tuple(layout(t) if t.dim() == 4 else torch.stack([t, t], 1)[:, 0] for t in tensors)
    expected = outcome(TINY, tensors, grad_y)
    assert_all_equal(outcome(TINY, laid_out, layout(grad_y)), expected)


def test_numbers_of_elements_of_64_bits_give_the_same(monkeypatch):
    tensors, grad_y = TINY.tensors(torch.float32), TINY.grad_y(torch.float32)
    expected = outcome(TINY, tensors, grad_y)
    monkeypatch.setattr(samples, "index_of", lambda *tensors: tl.int64)
    assert_all_equal(outcome(TINY, tensors, grad_y), expected)


def test_when_numbers_of_elements_need_64_bits():
    small, large = torch.empty(2, 3), torch.empty((2**15, 2**15 + 1), device="meta")
    assert index_of(small, None) == tl.int32
    assert index_of(small, large) == tl.int64
    assert index_of(small, torch.empty(1).expand(large.shape)) == tl.int64  # its gradient is as large
    assert index_of(small, large[:2, :2].as_strided((2, 2), (2**30, 1))) == tl.int64


@pytest.mark.parametrize("far", [1e9, -1e300, torch.inf, -torch.inf])
def test_far_outside_is_zero(far):
    tensors = BARE.tensors()
    tensors[1][:, ::3] = far
    actual = outcome(BARE, tensors, BARE.grad_y())
    expected = results(reference.deform_conv2d, BARE, tensors)
    for name, t in actual.items():
        torch.testing.assert_close(t, expected[name], **tolerances.FLOAT64)


@pytest.mark.parametrize("spread", [2.0, 0.0])
def test_offsets_on_integers_and_borders(spread):
    x, offset, weight, bias, mask = SMALL.tensors()
    tensors = x, offset.mul(spread).round(), weight, bias, mask
    actual, expected = outcome(SMALL, tensors, SMALL.grad_y()), results(torchvision.ops.deform_conv2d, SMALL, tensors)
    for name, t in actual.items():
        torch.testing.assert_close(t, expected[name], **tolerances.FLOAT64)


def test_at_minus_1_a_bad_pixel_reaches_the_gradient_of_offset_alone():
    case = DeformConv2dCase("", kernel_size=(1, 3), padding=(1, 1), masked=False, biased=False)
    x, offset, weight, _, _ = case.tensors(torch.float32, spread=0.0)
    x[1, :, 0] = torch.inf
    grad_y = torch.zeros_like(case.grad_y(torch.float32))
    grad_y[:, :, 0] = 1  # of the row whose samples lie at -1
    actual = outcome(case, (x, offset, weight, None, None), grad_y)
    assert not actual["y"][:, :, 0].any() and not actual["y"][1, :, 1].isfinite().any()
    assert not actual["input"].any() and not actual["offset"][1, ::2, 0, 1:-1].isfinite().any()


@pytest.mark.parametrize("which", [*NAMES, "grad_y"])
def test_results_have_the_memory_format_of_their_tensor(which):
    tensors, grad_y = dict(zip(NAMES, TINY.tensors(torch.float32), strict=True)), TINY.grad_y(torch.float32)
    expected = outcome(TINY, tuple(tensors.values()), grad_y)
    given = {**tensors, "grad_y": grad_y}
    if which != "bias":
        given[which] = given[which].contiguous(memory_format=torch.channels_last)
    actual = outcome(TINY, tuple(given[name] for name in NAMES), given["grad_y"])
    assert_all_equal(actual, expected)
    for name, t in actual.items():
        last = which in ("input", "offset", "mask") and name in (which, "y" if which == "input" else which)
        assert t.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), name


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_output_channels(deterministic):
    case = replace(SMALL, out_channels=0)
    tensors = case.tensors(torch.float32)
    expected = results(torchvision.ops.deform_conv2d, case, tensors)
    assert_all_equal(outcome(case, tensors, case.grad_y(torch.float32), deterministic), expected)


def test_nan_stays_in_its_pixel():
    x, offset, weight, _, _ = BARE.tensors(torch.float32, spread=0.1)
    geometry = [list(pair) for pair in BARE.geometry.values()]
    clean = forward(x, offset, weight, None, None, *geometry)
    offset[0, 2, 3, 5] = torch.nan
    y = forward(x, offset, weight, None, None, *geometry)
    reached = torch.zeros(y.shape, dtype=torch.bool)
    reached[0, :, 3, 5] = True
    assert y[reached].isnan().all() and torch.equal(y[~reached], clean[~reached])


def test_not_finite_stays_in_its_weight_group():
    """All vectors of a product belong to one weight group."""
    case = FUSED_CASES[2]
    x, offset, weight, bias, mask = case.tensors(torch.float16, spread=0.1, position_dtype=torch.float32)
    x[0, 30] = torch.inf
    y = forward(x, offset, weight, bias, mask, *(list(pair) for pair in case.geometry.values()))
    assert y[:, :33].isfinite().all() and not y[:, 33:].isfinite().all()


@pytest.mark.parametrize("wanted", range(5))
def test_only_the_gradients_that_are_wanted(wanted):
    x, offset, weight, bias, mask = tensors = TINY.tensors(torch.float32)
    needed = [i == wanted for i in range(5)]
    expected = outcome(TINY, tensors, TINY.grad_y(torch.float32))
    geometry = map(list, TINY.geometry.values())
    gradients = backward(TINY.grad_y(torch.float32), x, offset, weight, mask, *geometry, *needed, False)
    for name, gradient, need in zip(NAMES, gradients, needed, strict=True):
        assert torch.equal(gradient, expected[name]) if need else gradient.shape == (0,)


def test_what_guards_memory():
    good = dict(zip(NAMES, SMALL.tensors(torch.float32), strict=True))
    geometry = [list(pair) for pair in SMALL.geometry.values()]
    wrong = [
        {"input": good["input"][:, :5]},
        {"input": good["input"][0]},
        {"input": good["input"][:1]},
        {"offset": good["offset"][:, :-2]},
        {"offset": good["offset"][:, :, 1:]},
        {"mask": good["mask"][:, 1:]},
        {"weight": good["weight"][:, :2]},
        {"weight": good["weight"].double()},
        {"weight": good["weight"][:1]},
        {"bias": good["bias"][:1]},
        {"mask": good["mask"].to("meta")},
    ]
    for change in wrong:
        with pytest.raises(RuntimeError, match="^deform_conv2d[:/]"):
            forward(*{**good, **change}.values(), *geometry)
    for number, pair in ((0, [0, 1]), (1, [-1, 0]), (2, [1, 2**24])):
        with pytest.raises(RuntimeError, match="^deform_conv2d/(stride|padding|dilation): "):
            forward(*good.values(), *geometry[:number], pair, *geometry[number + 1 :])
    x, offset, weight, _, mask = good.values()
    with pytest.raises(RuntimeError, match="grad_y must have"):
        backward(SMALL.grad_y(torch.float32)[:, :1], x, offset, weight, mask, *geometry, *(True,) * 5, False)
