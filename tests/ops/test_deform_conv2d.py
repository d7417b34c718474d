"""dkic.ops.deform_conv2d equals its reference and torchvision, in every shape, layout and position."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from ops import tolerances
from ops.layouts import LAYOUTS
from ops.op_cases import DEFORM_CONV2D_CASES, DEFORM_CONV2D_FEW, PLAIN_CONV, TORCHVISION_CONV, DeformConv2dCase
from torch import Tensor
from torch._prims_common import suggest_memory_format

from dkic.ops import deform_conv2d, reference

# Shapes with an ambiguous memory format.
AMBIGUOUS = [
    DeformConv2dCase("one channel, one output", groups=1, depth=1, out_channels=1),
    DeformConv2dCase("one pixel", height=1, width=1),
    DeformConv2dCase("one column", height=5, width=1),
    DeformConv2dCase("one row", height=1, width=5),
    DeformConv2dCase("one output", out_channels=1),
    DeformConv2dCase("one output pixel", height=3, width=3, padding=(0, 0)),
    DeformConv2dCase("no image", batch=0),
]
NAMES = ("input", "offset", "weight", "bias", "mask")


def results(op, case: DeformConv2dCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor | None = None) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    named = {name: t.detach().requires_grad_() for name, t in zip(NAMES, tensors, strict=True) if t is not None}
    y = op(**named, **case.geometry)
    grad_y = case.grad_y(y.dtype) if grad_y is None else grad_y
    return {"y": y.detach(), **dict(zip(named, torch.autograd.grad(y, list(named.values()), grad_y), strict=True))}


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor], **tolerance) -> None:
    assert actual.keys() == expected.keys()
    for name, t in actual.items():
        torch.testing.assert_close(t, expected[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def assert_all_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, t in actual.items():
        assert torch.equal(t, expected[name]), name


@pytest.mark.parametrize("case", DEFORM_CONV2D_CASES, ids=str)
def test_equals_reference(case):
    tensors = case.tensors()
    expected = results(reference.deform_conv2d, case, tensors)
    assert_all_close(results(deform_conv2d, case, tensors), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("case", DEFORM_CONV2D_CASES, ids=str)
def test_equals_torchvision(case):
    tensors = case.tensors()
    expected = results(torchvision.ops.deform_conv2d, case, tensors)
    assert_all_close(results(deform_conv2d, case, tensors), expected, **tolerances.FLOAT64)


def test_signature_is_torchvisions():
    ours, theirs = (inspect.signature(op).parameters for op in (deform_conv2d, torchvision.ops.deform_conv2d))
    assert list(ours) == list(theirs)
    for name, parameter in ours.items():
        assert parameter.kind == theirs[name].kind
        default = theirs[name].default
        assert parameter.default == (default[0] if isinstance(default, tuple) else default)


def test_torchvisions_module_works_with_dkics_op(monkeypatch):
    """A model with torchvision's layers runs with dkic's function."""
    layer = torchvision.ops.DeformConv2d(6, 4, 3, stride=2, padding=1, groups=2).double()
    x, offset, mask = torch.randn(2, 6, 9, 8).double(), torch.randn(2, 18, 5, 4).double(), torch.rand(2, 9, 5, 4).double()
    expected = layer(x, offset, mask)
    monkeypatch.setattr(torchvision.ops.deform_conv, "deform_conv2d", deform_conv2d)
    torch.testing.assert_close(layer(x, offset, mask), expected, **tolerances.FLOAT64)


def test_zero_offsets_give_a_convolution():
    case = DeformConv2dCase("", groups=2, depth=8, out_channels=6, weight_groups=2, stride=(2, 1), dilation=(1, 2))
    x, offset, weight, bias, _ = case.tensors()
    expected = torch.nn.functional.conv2d(x, weight, bias, groups=2, **case.geometry)
    actual = deform_conv2d(x, torch.zeros_like(offset), weight, bias, **case.geometry)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


@pytest.mark.parametrize(
    "one",
    [
        1,
        True,
        (1, 1),
        [1, 1],
        np.int64(1),
        (np.int32(1), 1),
        np.array([1, 1]),
        torch.Size([1, 1]),
        (torch.tensor(1), torch.tensor(1)),
    ],
    ids=repr,
)
def test_any_integer_type_is_accepted_for_a_pair(one):
    x, offset, weight, bias, mask = PLAIN_CONV.tensors()
    expected = torchvision.ops.deform_conv2d(x, offset, weight, bias, one, one, one, mask)
    actual = deform_conv2d(x, offset, weight, bias, one, one, one, mask)
    torch.testing.assert_close(actual, expected, **tolerances.FLOAT64)


# ---- Layouts ----


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [PLAIN_CONV, TORCHVISION_CONV], ids=str)
@pytest.mark.parametrize("which", ["input", "offset", "weight", "mask", "grad_y"])
def test_any_layout_gives_the_same(which, case, layout):
    arguments = dict(zip(NAMES, case.tensors(), strict=True), grad_y=case.grad_y())
    expected = results(deform_conv2d, case, tuple(arguments[name] for name in NAMES))
    arguments[which] = layout(before := arguments[which])
    assert torch.equal(arguments[which], before) and arguments[which].stride() != before.stride()
    assert_all_equal(results(deform_conv2d, case, tuple(arguments[name] for name in NAMES), arguments["grad_y"]), expected)


@pytest.mark.parametrize("which", ["input", "offset", "weight", "mask", "grad_y"])
@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_expanded_arguments(which, axes):
    arguments = dict(zip(NAMES, PLAIN_CONV.tensors(), strict=True), grad_y=PLAIN_CONV.grad_y())
    t = arguments[which]
    outcomes = []
    for make in (lambda t: t, lambda t: t.contiguous()):
        arguments[which] = make(t[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))].expand(t.shape))
        outcomes.append(results(deform_conv2d, PLAIN_CONV, tuple(arguments[name] for name in NAMES), arguments["grad_y"]))
    assert_all_equal(*outcomes)


def test_strided_bias():
    *others, bias, mask = PLAIN_CONV.tensors()
    strided = torch.stack([bias, bias + 1], 1)[:, 0]
    assert strided.stride() == (2,)
    expected = deform_conv2d(*others, bias, padding=1, mask=mask)
    assert torch.equal(deform_conv2d(*others, strided, padding=1, mask=mask), expected)


@pytest.mark.parametrize("weight_groups", [1, 4])
def test_a_large_nchw_image_is_not_copied(weight_groups):
    """An NCHW input above 16 MB is not copied to NHWC but read with its strides."""
    case = DeformConv2dCase(
        "", batch=1, groups=2, depth=16, height=512, width=513, weight_groups=weight_groups, stride=(16, 16), out_channels=8
    )
    tensors = list(case.tensors(torch.float32))
    assert tensors[0].nbytes > 2**24 and tensors[0].is_contiguous()
    actual = results(deform_conv2d, case, tuple(tensors))
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    # Sums over channels come in another order, one channel at a time.
    assert_all_close(actual, results(deform_conv2d, case, tuple(tensors)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", ["none", "input", "offset", "mask", "all"])
@pytest.mark.parametrize("case", [*DEFORM_CONV2D_FEW, *AMBIGUOUS], ids=str)
def test_results_have_the_memory_format_of_their_tensor(case, which):
    """y has the format of input, a gradient that of its tensor; the gradient of weight is contiguous."""
    tensors = dict(zip(NAMES, case.tensors(), strict=True))
    for name, t in tensors.items():
        if t is not None and t.dim() == 4 and (which == "all" or name == which):
            tensors[name] = t.contiguous(memory_format=torch.channels_last)
    given = {**tensors, "y": tensors["input"], "weight": None, "bias": None}
    for name, t in results(deform_conv2d, case, tuple(tensors.values())).items():
        memory_format = torch.contiguous_format if given[name] is None else suggest_memory_format(given[name])
        assert t.stride() == torch.empty(t.shape).to(memory_format=memory_format, copy=True).stride(), name


def test_the_result_of_a_contiguous_input_can_be_viewed():
    x, offset, weight, bias, mask = PLAIN_CONV.tensors()
    y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    assert y.view(len(x), -1).shape == (2, 4 * 7 * 9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_no_output_channels(layout):
    case = replace(TORCHVISION_CONV, batch=2, out_channels=0)
    tensors = tuple(t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in case.tensors())
    expected = results(torchvision.ops.deform_conv2d, case, tensors)
    assert_all_equal(results(deform_conv2d, case, tensors), expected)
    assert_all_equal(results(reference.deform_conv2d, case, tensors), expected)


WANTED = [*NAMES, "weight bias", "input offset", "offset mask", "input weight"]


@pytest.mark.parametrize("wanted", WANTED, ids=str)
@pytest.mark.parametrize("case", [PLAIN_CONV, TORCHVISION_CONV], ids=str)
def test_only_the_gradients_that_are_wanted(case, wanted):
    tensors, wanted = dict(zip(NAMES, case.tensors(), strict=True)), wanted.split()
    expected = results(deform_conv2d, case, tuple(tensors.values()))
    for name, t in tensors.items():
        t.requires_grad_(name in wanted)
    deform_conv2d(**tensors, **case.geometry).backward(case.grad_y())
    for name, t in tensors.items():
        assert torch.equal(t.grad, expected[name]) if name in wanted else t.grad is None


# ---- Positions ----


@pytest.mark.parametrize("far", [1e9, -1e9, 1e300, math.inf, -math.inf])
@pytest.mark.parametrize("axis", ["rows", "columns", "both"])
def test_far_outside_is_zero(far, axis):
    tensors = PLAIN_CONV.tensors()
    axes = {"rows": [0], "columns": [1], "both": [0, 1]}[axis]
    tensors[1].view(2, -1, 2, 7, 9)[:, ::3, axes] = far
    actual = results(deform_conv2d, PLAIN_CONV, tensors)
    assert_all_close(actual, results(reference.deform_conv2d, PLAIN_CONV, tensors), **tolerances.FLOAT64)
    assert all(t.isfinite().all() for t in actual.values())
    assert not actual["offset"].view(2, -1, 2, 7, 9)[:, ::3].any() and not actual["mask"].view(2, -1, 7, 9)[:, ::3].any()


@pytest.mark.parametrize("spread", [2.0, 0.0])  # 0: of a model at the beginning of its training
@pytest.mark.parametrize("case", [*DEFORM_CONV2D_FEW, replace(PLAIN_CONV, name="padding 3", padding=(3, 3))], ids=str)
def test_offsets_on_integers_and_borders(case, spread):
    """Also at exactly -1, where the sample is 0 and the gradient of offset is not."""
    x, offset, *others = case.tensors()
    tensors = x, offset.mul(spread).round(), *others
    expected = results(torchvision.ops.deform_conv2d, case, tensors)
    assert_all_close(results(deform_conv2d, case, tensors), expected, **tolerances.FLOAT64)
    assert_all_close(results(reference.deform_conv2d, case, tensors), expected, **tolerances.FLOAT64)


@pytest.mark.parametrize("edge", [(-1, 3), (7, 3), (3, -1), (3, 9), (-1, -1), (7, 9), (-1, 9), (7, -1)])
def test_all_samples_on_the_edge(edge):
    x, offset, weight, bias, mask = PLAIN_CONV.tensors()
    grid = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij")).double()
    tap = torch.stack([torch.arange(9) // 3, torch.arange(9) % 3], 1).view(9, 2, 1, 1) - 1
    to_edge = torch.tensor(edge).view(2, 1, 1) - grid - tap
    tensors = x, to_edge.expand(2, 2, 9, 2, 7, 9).reshape(offset.shape), weight, bias, mask
    actual = results(deform_conv2d, PLAIN_CONV, tensors)
    assert_all_close(actual, results(torchvision.ops.deform_conv2d, PLAIN_CONV, tensors), **tolerances.FLOAT64)
    assert bool(actual["offset"].any()) == (edge in ((-1, 3), (3, -1)))
    assert not actual["mask"].any() and not actual["input"].any() and not actual["weight"].any()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_at_minus_1_a_nan_pixel_affects_only_the_gradient_of_offset(bad):
    case = DeformConv2dCase("", kernel_size=(1, 3), padding=(1, 1), masked=False)
    x, offset, weight, bias, _ = case.tensors(spread=0.0)
    x[1, :, 0] = bad
    grad_y = torch.zeros_like(case.grad_y())
    grad_y[:, :, 0] = 1  # of the row whose samples lie at -1
    actual = results(deform_conv2d, case, (x, offset, weight, bias, None), grad_y)
    assert torch.equal(actual["y"][:, :, 0], bias.view(1, 4, 1).expand(2, 4, 9))
    assert not actual["y"][1, :, 1].isfinite().any()
    assert not actual["input"].any() and not actual["offset"][1, ::2, 0, 1:-1].isfinite().any()


@pytest.mark.parametrize("axis", [0, 1])
def test_nan_stays_in_its_pixel(axis):
    x, offset, weight, bias, mask = PLAIN_CONV.tensors(spread=0.1)
    expected = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    offset[1, 2 * 4 + axis, 3, 5] = math.nan  # the middle tap of group 0
    actual = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    reached = torch.zeros(actual.shape, dtype=torch.bool)
    reached[1, :, 3, 5] = True
    assert actual[reached].isnan().all() and torch.equal(actual[~reached], expected[~reached])


def test_infinite_pixels_affect_only_adjacent_samples():
    x, offset, weight, bias, mask = PLAIN_CONV.tensors(spread=0.1)
    clean = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    x[1, 4, 3, 5] = math.inf
    actual = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    reached = torch.zeros(actual.shape, dtype=torch.bool)
    reached[1, :, 1:6, 3:8] = True
    assert torch.equal(actual[~reached], clean[~reached]) and not actual[1, :, 3, 5].isfinite().any()
