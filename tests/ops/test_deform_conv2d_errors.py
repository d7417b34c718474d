"""Errors of dkic.ops.deform_conv2d; its native code, called without the checks in Python, never crashes."""

import numpy as np
import pytest
import torch
from ops.op_cases import PLAIN_CONV

from dkic.ops import deform_conv2d

NAMES = ("input", "offset", "weight", "bias", "mask")


def changed(**changes) -> dict:
    """Good arguments with some changed: a function is given the good one."""
    good = {**dict(zip(NAMES, PLAIN_CONV.tensors(torch.float32), strict=True)), **PLAIN_CONV.geometry}
    return {**good, **{name: change(good[name]) if callable(change) else change for name, change in changes.items()}}


def first(count: int, axis: int = 1):
    return lambda t: t.narrow(axis, 0, count)


FLOATS = "must be float32, float64, float16 or bfloat16, and is"
WEIGHT = "weight: must have shape [O, 6/groups, 3, 3], with groups dividing both input's 6 channels and O, and has"
GROUPS = "offset: must have G*9*2 channels for a 3x3 kernel, with G dividing input's"

# What is changed, the exception, and its message after "deform_conv2d/".
WRONG = [
    (dict(input=lambda t: t.numpy()), TypeError, "input: must be a tensor, and is a ndarray"),
    (dict(input=None), TypeError, "input: must be a tensor, and is a NoneType"),
    (dict(offset=None), TypeError, "offset: must be a tensor, and is a NoneType"),
    (dict(weight=None), TypeError, "weight: must be a tensor, and is a NoneType"),
    (dict(bias=1.0), TypeError, "bias: must be a tensor, and is a float"),
    (dict(mask=1.0), TypeError, "mask: must be a tensor, and is a float"),
    (dict(input=lambda t: t.int()), TypeError, f"input: {FLOATS} int32"),
    (dict(weight=lambda t: t.int()), TypeError, f"weight: {FLOATS} int32"),
    (dict(offset=lambda t: t.long()), TypeError, f"offset: {FLOATS} int64"),
    (dict(mask=lambda t: t > 0), TypeError, f"mask: {FLOATS} bool"),
    (dict(bias=lambda t: t.int()), TypeError, f"bias: {FLOATS} int32"),
    (dict(weight=lambda t: t.double()), TypeError, "weight: must have input's dtype float32, and is float64"),
    (dict(bias=lambda t: t.half()), TypeError, "bias: must have input's dtype float32, and is float16"),
    (dict(input=lambda t: t[0]), ValueError, "input: must have 4 dimensions, and has shape [6, 7, 9]"),
    (dict(weight=lambda t: t[0]), ValueError, "weight: must have 4 dimensions, and has shape [6, 3, 3]"),
    (dict(offset=lambda t: t[0]), ValueError, "offset: must have 4 dimensions, and has shape [36, 7, 9]"),
    (dict(mask=lambda t: t[0]), ValueError, "mask: must have 4 dimensions, and has shape [18, 7, 9]"),
    (dict(bias=lambda t: t[:, None]), ValueError, "bias: must have 1 dimension, and has shape [4, 1]"),
    (dict(weight=lambda t: t.to("meta")), ValueError, "weight: must be on input's device cpu, and is on meta"),
    (dict(bias=lambda t: t.to("meta")), ValueError, "bias: must be on input's device cpu, and is on meta"),
    (dict(offset=lambda t: t.to("meta")), ValueError, "offset: must be on input's device cpu, and is on meta"),
    (dict(mask=lambda t: t.to("meta")), ValueError, "mask: must be on input's device cpu, and is on meta"),
    (dict(weight=first(5)), ValueError, f"{WEIGHT} [4, 5, 3, 3]"),
    (dict(weight=first(0)), ValueError, f"{WEIGHT} [4, 0, 3, 3]"),
    (dict(weight=first(0, 0)), ValueError, "bias: must have shape [0], and has [4]"),
    (dict(weight=first(2)), ValueError, f"{WEIGHT} [4, 2, 3, 3]"),  # 3 groups, 4 channels
    (dict(weight=lambda t: t.repeat(1, 2, 1, 1)), ValueError, f"{WEIGHT} [4, 12, 3, 3]"),
    (dict(weight=first(2, 2)), ValueError, "offset: must have shape [2, 36, 8, 9], and has [2, 36, 7, 9]"),
    (dict(weight=first(0, 2)), ValueError, "kernel_size: must be at least 1, and is (0, 3)"),
    (dict(bias=first(3, 0)), ValueError, "bias: must have shape [4], and has [3]"),
    (dict(input=first(5)), ValueError, f"{GROUPS} 5 channels, and has 36"),
    (dict(offset=first(35)), ValueError, f"{GROUPS} 6 channels, and has 35"),
    (dict(offset=first(0)), ValueError, f"{GROUPS} 6 channels, and has 0"),
    (dict(offset=first(6, 2)), ValueError, "offset: must have shape [2, 36, 7, 9], and has [2, 36, 6, 9]"),
    (dict(mask=first(17)), ValueError, "mask: must have shape [2, 18, 7, 9], and has [2, 17, 7, 9]"),
    (dict(input=first(0, 2)), ValueError,
     "input: must be at least as large as the dilated kernel, and is 0x9 with padding (1, 1)"),
    (dict(dilation=5), ValueError, "input: must be at least as large as the dilated kernel, and is 7x9 with padding (1, 1)"),
    (dict(stride=(1, 0)), ValueError, "stride: must be at least 1, and is (1, 0)"),
    (dict(padding=(-1, 1)), ValueError, "padding: must be at least 0, and is (-1, 1)"),
    (dict(padding=2**62), ValueError, f"padding: must be below 2^24, and is ({2**62}, {2**62})"),
    *(
        (dict([(name, wrong)]), TypeError, f"{name}: must be an int or a pair (height, width) of ints, and is {wrong!r}")
        for name in PLAIN_CONV.geometry
        for wrong in ((3, 3, 3), (), 3.0, (1, 2.0), (np.float32(1), 1), "same", "22", None, torch.tensor(1.0))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "exception", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_wrong_argument_is_named(changes, exception, message):
    arguments = changed(**changes)
    with pytest.raises(exception) as caught:
        deform_conv2d(**arguments)
    assert isinstance(caught.value, RuntimeError)  # as torchvision's
    assert str(caught.value) == f"deform_conv2d/{message}"


def test_a_device_without_kernels_is_refused(monkeypatch):
    from dkic.ops import backends

    monkeypatch.setattr(backends, "_running", set())
    monkeypatch.setattr(backends, "op_unavailable_reason", lambda op, device: "There is none.")
    with pytest.raises(RuntimeError, match=r"^There is none\.$"):
        deform_conv2d(**changed())


# ---- Past the checks: torch.ops.dkic.deform_conv2d called as it should not be ----

HUGE = 2**62
BAD_LISTS = [[], [3], [3, 3, 3], [0, 0], [-1, 3], [-HUGE, -HUGE], [HUGE, HUGE], [2**32, 2**32], [2**24, 1]]
BAD_TENSORS = [
    *(
        {name: change}
        for name in ("input", "offset", "weight", "mask")
        for change in (
            lambda t: t[0],
            lambda t: t.sum(),
            lambda t: t[None],
            lambda t: t.int(),
            lambda t: t.to(torch.complex64),
            lambda t: t.to_sparse(),
            first(0, 1),
            first(5, 1),
        )
    ),
    *({name: first(1, 0)} for name in ("input", "offset", "mask", "bias")),
    *({name: first(2, 2)} for name in ("input", "offset", "weight", "mask")),
    *({name: first(2, 3)} for name in ("input", "offset", "weight", "mask")),
    *({"weight": change} for change in (first(0, 1), first(3, 0), first(0, 2), lambda t: t.double(), lambda t: t.half())),
    dict(weight=first(2)),
    dict(bias=lambda t: t[:, None]),
    dict(bias=lambda t: t.sum()),
    dict(bias=lambda t: t.repeat(2)),
]
BAD_GRAD_Y = [
    lambda t: t[0],
    lambda t: t.sum(),
    lambda t: t.double(),
    lambda t: t.int(),
    lambda t: t[None],
    *(first(count, axis) for axis, count in enumerate((1, 3, 6, 8))),
    *(first(0, axis) for axis in range(4)),
]


def call_native(arguments: dict, grad_y: torch.Tensor | None = None) -> None:
    """Calls forward or, with a grad_y, backward, without the checks in Python."""
    x, offset, weight, bias, mask, *geometry = arguments.values()
    if grad_y is None:
        torch.ops.dkic.deform_conv2d(x, offset, weight, bias, mask, *geometry)
    else:
        torch.ops.dkic.deform_conv2d_backward(grad_y, x, offset, weight, mask, *geometry, *(True,) * 5, False)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", PLAIN_CONV.geometry)
@pytest.mark.parametrize("value", BAD_LISTS, ids=str)
def test_native_code_refuses_lists(name, value, backward):
    message = "kernel_size, stride and dilation must be two positive integers|the shape of offset does not fit"
    with pytest.raises(RuntimeError, match=message):
        call_native(changed(**{name: value}), PLAIN_CONV.grad_y(torch.float32) if backward else None)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("changes", BAD_TENSORS, ids=range(len(BAD_TENSORS)))
def test_native_code_refuses_tensors(changes, backward):
    if backward and "bias" in changes:
        return  # backward is not given the bias
    with pytest.raises((RuntimeError, IndexError, NotImplementedError)):
        call_native(changed(**changes), PLAIN_CONV.grad_y(torch.float32) if backward else None)


@pytest.mark.parametrize("change", BAD_GRAD_Y, ids=range(len(BAD_GRAD_Y)))
def test_native_code_refuses_grad_y(change):
    with pytest.raises((RuntimeError, IndexError)):
        call_native(changed(), change(PLAIN_CONV.grad_y(torch.float32)))
