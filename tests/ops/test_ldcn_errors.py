"""Errors of dkic.ops.ldcn; its native code, called without the checks in Python, never crashes."""

import pytest
import torch
from ops.op_cases import PLAIN

from dkic.ops import ldcn


def changed(**changes) -> dict:
    """Good arguments with some changed: a function is given the good one."""
    x, offset, mask = PLAIN.tensors(torch.float32)
    good = {"x": x, "offset": offset, "mask": mask, **PLAIN.geometry}
    return {**good, **{name: change(good[name]) if callable(change) else change for name, change in changes.items()}}


def first(count: int, axis: int = 1):
    return lambda t: t.narrow(axis, 0, count)


FLOATS = "must be float32, float64, float16 or bfloat16, and is"
GROUPS = "offset: must have G*9*2 channels for a 3x3 kernel, with G dividing x's "


# What is changed, the exception, and its message after "ldcn/".
WRONG = [
    (dict(x=lambda t: t.numpy()), TypeError, "x: must be a tensor, and is a ndarray"),
    (dict(x=None), TypeError, "x: must be a tensor, and is a NoneType"),
    (dict(offset=None), TypeError, "offset: must be a tensor, and is a NoneType"),
    (dict(mask=1.0), TypeError, "mask: must be a tensor, and is a float"),
    (dict(x=lambda t: t.int()), TypeError, f"x: {FLOATS} int32"),
    (dict(offset=lambda t: t.long()), TypeError, f"offset: {FLOATS} int64"),
    (dict(mask=lambda t: t > 0), TypeError, f"mask: {FLOATS} bool"),
    (dict(x=lambda t: t.to(torch.complex64)), TypeError, f"x: {FLOATS} complex64"),
    (dict(x=lambda t: t[0]), ValueError, "x: must have 4 dimensions, and has shape [6, 7, 9]"),
    (dict(x=lambda t: t[None]), ValueError, "x: must have 4 dimensions, and has shape [1, 2, 6, 7, 9]"),
    (dict(x=lambda t: t.sum()), ValueError, "x: must have 4 dimensions, and has shape []"),
    (dict(offset=lambda t: t[0]), ValueError, "offset: must have 4 dimensions, and has shape [36, 7, 9]"),
    (dict(mask=lambda t: t[0]), ValueError, "mask: must have 4 dimensions, and has shape [18, 7, 9]"),
    (dict(x=lambda t: t.to("meta")), ValueError, "offset: must be on x's device meta, and is on cpu"),
    (dict(offset=lambda t: t.to("meta")), ValueError, "offset: must be on x's device cpu, and is on meta"),
    (dict(mask=lambda t: t.to("meta")), ValueError, "mask: must be on x's device cpu, and is on meta"),
    (dict(x=first(0, 2)), ValueError, "x: must be at least as large as the dilated kernel, and is 0x9 with padding (1, 1)"),
    (dict(x=first(5, 1)), ValueError, f"{GROUPS}5 channels, and has 36"),
    (dict(x=first(0, 1)), ValueError, f"{GROUPS}0 channels, and has 36"),
    (dict(offset=first(35)), ValueError, f"{GROUPS}6 channels, and has 35"),
    (dict(offset=first(0)), ValueError, f"{GROUPS}6 channels, and has 0"),
    (dict(offset=first(18)), ValueError, "mask: must have shape [2, 9, 7, 9], and has [2, 18, 7, 9]"),
    (dict(offset=first(1, 0)), ValueError, "offset: must have shape [2, 36, 7, 9], and has [1, 36, 7, 9]"),
    (dict(offset=first(6, 2)), ValueError, "offset: must have shape [2, 36, 7, 9], and has [2, 36, 6, 9]"),
    (dict(mask=first(17)), ValueError, "mask: must have shape [2, 18, 7, 9], and has [2, 17, 7, 9]"),
    (dict(mask=first(8, 3)), ValueError, "mask: must have shape [2, 18, 7, 9], and has [2, 18, 7, 8]"),
    (dict(mask=first(1, 0)), ValueError, "mask: must have shape [2, 18, 7, 9], and has [1, 18, 7, 9]"),
    (dict(kernel_size=(4, 3)), ValueError, f"{GROUPS}6 channels, and has 36".replace("*9*2", "*12*2").replace("3x3", "4x3")),
    (dict(kernel_size=0), ValueError, "kernel_size: must be at least 1, and is (0, 0)"),
    (dict(stride=(1, 0)), ValueError, "stride: must be at least 1, and is (1, 0)"),
    (dict(stride=-1), ValueError, "stride: must be at least 1, and is (-1, -1)"),
    (dict(padding=(-1, 1)), ValueError, "padding: must be at least 0, and is (-1, 1)"),
    (dict(dilation=0), ValueError, "dilation: must be at least 1, and is (0, 0)"),
    (dict(dilation=5), ValueError, "x: must be at least as large as the dilated kernel, and is 7x9 with padding (1, 1)"),
    (dict(stride=2), ValueError, "offset: must have shape [2, 36, 4, 5], and has [2, 36, 7, 9]"),
    (dict(padding=2**62), ValueError, f"padding: must be below 2^24, and is ({2**62}, {2**62})"),
    (dict(stride=(1, 2**24)), ValueError, f"stride: must be below 2^24, and is (1, {2**24})"),
    *(
        (dict([(name, wrong)]), TypeError, f"{name}: must be an int or a pair (height, width) of ints, and is {wrong!r}")
        for name in PLAIN.geometry
        for wrong in ((3, 3, 3), (3,), (), 3.0, (3, 3.0), "same", "33", None, torch.tensor(3.0))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "exception", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_wrong_argument_is_named(changes, exception, message):
    arguments = changed(**changes)
    with pytest.raises(exception) as caught:
        ldcn(**arguments)
    assert isinstance(caught.value, RuntimeError)  # as deform_conv2d's
    assert str(caught.value) == f"ldcn/{message}"


def test_a_device_without_kernels_is_refused(monkeypatch):
    from dkic.ops import backends

    reason = backends.op_unavailable_reason("ldcn", torch.device("mps"))
    assert reason == "dkic.ops.ldcn has no kernels for mps tensors; move them to the CPU with .cpu()"
    monkeypatch.setattr(backends, "_running", set())
    monkeypatch.setattr(backends, "op_unavailable_reason", lambda op, device: reason)
    with pytest.raises(RuntimeError) as caught:
        ldcn(**changed())
    assert str(caught.value) == reason


# ---- Past the checks: torch.ops.dkic.ldcn called as it should not be ----

HUGE = 2**62
BAD_LISTS = [[], [3], [3, 3, 3], [0, 0], [0, 1], [-1, 3], [-HUGE, -HUGE], [HUGE, HUGE], [2**32, 2**32], [2**24, 1]]
BAD_TENSORS = [
    dict(x=lambda t: t[0]),
    dict(x=lambda t: t[0, 0, 0]),
    dict(x=lambda t: t.sum()),
    dict(x=lambda t: t[None]),
    dict(x=first(0, 1)),
    dict(x=first(0, 2)),
    dict(x=first(5, 1)),
    dict(x=first(6, 2)),
    dict(x=first(1, 0)),
    dict(x=first(0, 0)),
    dict(x=lambda t: t.int()),
    dict(x=lambda t: t.to(torch.complex64)),
    dict(x=lambda t: t.to_sparse()),
    dict(offset=lambda t: t[0]),
    dict(offset=lambda t: t.sum()),
    dict(offset=first(0)),
    dict(offset=first(17)),
    dict(offset=first(35)),
    dict(offset=first(1, 0)),
    dict(offset=first(6, 2)),
    dict(offset=first(8, 3)),
    dict(offset=lambda t: t.new_empty(2, 36, 8, 9)),
    dict(offset=lambda t: t.long()),
    dict(mask=lambda t: t[0]),
    dict(mask=lambda t: t.sum()),
    dict(mask=first(0)),
    dict(mask=first(9)),
    dict(mask=first(1, 0)),
    dict(mask=first(6, 2)),
    dict(mask=first(8, 3)),
    dict(mask=lambda t: t > 0),
]
BAD_GRAD_Y = [
    lambda t: t[0],
    lambda t: t.sum(),
    lambda t: t.double(),
    lambda t: t.int(),
    first(1, 0),
    first(0, 0),
    first(5, 1),
    first(6, 2),
    first(8, 3),
    lambda t: t[None],
]


def call_native(arguments: dict, grad_y: torch.Tensor | None = None) -> None:
    """Calls forward or, with a grad_y, backward, without the checks in Python."""
    if grad_y is None:
        torch.ops.dkic.ldcn(*arguments.values())
    else:
        torch.ops.dkic.ldcn_backward(grad_y, *arguments.values(), True, True, True, False)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", PLAIN.geometry)
@pytest.mark.parametrize("value", BAD_LISTS, ids=str)
def test_native_code_refuses_lists(name, value, backward):
    if name == "padding" and value in ([0, 0], [0, 1]):
        message = "the shape of offset does not fit x"
    else:
        message = "kernel_size, stride and dilation must be two positive integers, padding two integers >= 0, all below"
    with pytest.raises(RuntimeError, match=message):
        call_native(changed(**{name: value}), PLAIN.grad_y(torch.float32) if backward else None)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("changes", BAD_TENSORS, ids=range(len(BAD_TENSORS)))
def test_native_code_refuses_tensors(changes, backward):
    with pytest.raises((RuntimeError, IndexError, NotImplementedError)):
        call_native(changed(**changes), PLAIN.grad_y(torch.float32) if backward else None)


@pytest.mark.parametrize("change", BAD_GRAD_Y, ids=range(len(BAD_GRAD_Y)))
def test_native_code_refuses_grad_y(change):
    with pytest.raises((RuntimeError, IndexError)):
        call_native(changed(), change(PLAIN.grad_y(torch.float32)))


@pytest.mark.parametrize("name", ["x", "offset", "mask"])
def test_tensors_on_meta_beside_others_read_nothing(name):
    """With a meta tensor among the arguments, only the fake kernel runs: it returns a shape or raises an error."""
    arguments = changed(**{name: lambda t: t.to("meta")})
    try:
        y = torch.ops.dkic.ldcn(*arguments.values())
    except (RuntimeError, NotImplementedError):
        return
    assert y.is_meta or name != "x"


def test_an_image_of_2_to_the_24_rows_is_refused():
    x, offset = torch.zeros(1, 1, 1, 1).expand(-1, -1, 2**24, -1), torch.zeros(1, 2, 1, 1).expand(-1, -1, 2**24, -1)
    with pytest.raises(ValueError, match=r"x: must be below 2\^24 pixels high and wide, and is 16777216x1"):
        ldcn(x, offset, kernel_size=1, padding=0)
    with pytest.raises(RuntimeError, match=r"height and width of x must be below 2\^24"):
        torch.ops.dkic.ldcn(x, offset, None, [1, 1], [1, 1], [0, 0], [1, 1])


def test_the_largest_geometry_gives_zero():
    """Just below the limit of 2^24 all positions still fit."""
    most = 2**24 - 1
    x = torch.ones(1, 2, 3, 3)
    ones = torch.zeros(1, 2, 1, 1)
    assert torch.equal(ldcn(x, ones, kernel_size=1, stride=most, padding=0), torch.ones(1, 2, 1, 1))
    assert torch.equal(ldcn(x, ones, kernel_size=1, stride=most, padding=0, dilation=most), torch.ones(1, 2, 1, 1))
    far = ldcn(x, torch.zeros(1, 2, 3, 3), kernel_size=1, stride=most, padding=most)
    assert torch.equal(far[:, :, 1, 1], torch.ones(1, 2)) and far.sum() == 2
