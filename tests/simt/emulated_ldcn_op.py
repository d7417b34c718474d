"""The host code of ldcn on CUDA, with its kernels on the emulator and CPU tensors. test_ldcn_op.py runs this in a subprocess, in
which the emulated kernel is registered for CUDA."""

import ctypes
import os

import pytest
import torch
from ops.layouts import LAYOUTS, channels_last
from ops.ldcn_parity import assert_close, of_reference
from ops.op_cases import LDCN_FEW, LDCN_WARP_CASES, PLAIN, LdcnCase
from torch import Tensor

import dkic.ops  # noqa: F401  (defines the op)

LIBRARY = os.environ["DKIC_EMULATED"]
torch.ops.load_library(LIBRARY)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
EMPTY = LdcnCase("empty", batch=0)


@pytest.fixture(autouse=True)
def fresh_memory_is_nan():
    """Fills uninitialized memory, so that a missing initialization to 0 fails the test."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def forward(case: LdcnCase, *tensors: Tensor | None) -> Tensor:
    geometry = map(list, case.geometry.values())
    return torch.ops.dkic.ldcn.default.redispatch(CUDA, *tensors, *geometry)


def backward(case: LdcnCase, grad_y: Tensor, tensors: tuple[Tensor | None, ...], *wanted: bool, integers: bool) -> list[Tensor]:
    geometry = map(list, case.geometry.values())
    op = torch.ops.dkic.ldcn_backward.default
    return list(op.redispatch(CUDA, grad_y, *tensors, *geometry, *wanted, integers))


def results(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor, integers: bool = False) -> list[Tensor]:
    gradients = backward(case, grad_y, tensors, True, True, case.masked, integers=integers)
    return [forward(case, *tensors), *gradients[: 3 if case.masked else 2]]


@pytest.mark.parametrize("integers", [False, True], ids=["atomics", "integers"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*LDCN_FEW, EMPTY], ids=str)
def test_equals_reference(case, dtype, integers):
    tensors, grad_y = case.tensors(dtype), case.grad_y(dtype)
    actual = results(case, tensors, grad_y, integers)
    assert [t.dtype for t in actual] == [dtype] * len(actual)
    assert all(t.is_contiguous() for t in actual)
    assert_close(actual, of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("integers", [False, True], ids=["atomics", "integers"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_WARP_CASES[::4], ids=str)
def test_channels_last_equals_reference(case, dtype, integers):
    tensors = tuple(t if t is None else channels_last(t) for t in case.tensors(dtype))
    grad_y = channels_last(case.grad_y(dtype))
    actual = results(case, tensors, grad_y, integers)
    assert_close(actual, of_reference(case, tensors, grad_y))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["x", "offset", "mask", "grad_y"])
def test_any_layout(which, layout):
    case = LdcnCase("D 8", depth=8, height=4)
    arguments = dict(zip(("x", "offset", "mask"), case.tensors(torch.float16), strict=True), grad_y=case.grad_y(torch.float16))
    expected = of_reference(case, tuple(arguments.values())[:3], arguments["grad_y"])
    arguments[which] = layout(arguments[which])
    assert_close(results(case, tuple(arguments.values())[:3], arguments["grad_y"]), expected)


@pytest.mark.parametrize("position_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_have_the_types_of_what_they_belong_to(position_dtype):
    tensors, grad_y = PLAIN.tensors(torch.float16, position_dtype=position_dtype), PLAIN.grad_y(torch.float16)
    actual = results(PLAIN, tensors, grad_y)
    assert [t.dtype for t in actual] == [torch.float16] * 2 + [position_dtype] * 2
    assert_close(actual, of_reference(PLAIN, tensors, grad_y))


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)])
@pytest.mark.parametrize("case", [PLAIN, LDCN_WARP_CASES[2]], ids=str)
def test_only_the_gradients_that_are_wanted(case, wanted):
    tensors, grad_y = map(channels_last, case.tensors(torch.float32)), channels_last(case.grad_y(torch.float32))
    tensors = tuple(tensors)
    every = backward(case, grad_y, tensors, True, True, True, integers=True)
    some = backward(case, grad_y, tensors, *wanted, integers=True)
    for gradient, expected, is_wanted in zip(some, every, wanted, strict=True):
        assert torch.equal(gradient, expected) if is_wanted else gradient.shape == (0,)


@pytest.mark.parametrize("op", ["ldcn", "ldcn_backward"])
def test_a_launch_that_fails_raises(op):
    tensors, grad_y = PLAIN.tensors(), PLAIN.grad_y()
    calls = [lambda: forward(PLAIN, *tensors)]
    if op == "ldcn_backward":
        calls = [
            lambda wanted=wanted, integers=integers: backward(PLAIN, grad_y, tensors, *wanted, integers=integers)
            for wanted, integers in (((False, True, True), False), ((True, False, False), False), ((True, False, False), True))
        ]
    for call in calls:
        ctypes.CDLL(LIBRARY).dkic_fail_next(700)
        with pytest.raises(RuntimeError, match=f" {op}: CUDA error number 700"):
            call()
        call()  # and leaves nothing behind


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, offset, mask: (x[:, :5], offset, mask),
        lambda x, offset, mask: (x, offset[:, :17], mask),
        lambda x, offset, mask: (x, offset, mask[..., :8]),
        lambda x, offset, mask: (x, offset, mask[0]),
        lambda x, offset, mask: (x, offset.to("meta"), mask),
        lambda x, offset, mask: (x.to("meta"), offset, mask),
        lambda x, offset, mask: (x, offset.long(), mask),
    ],
)
def test_wrong_tensors_are_refused(wrong):
    tensors, grad_y = wrong(*PLAIN.tensors()), PLAIN.grad_y()
    with pytest.raises((RuntimeError, IndexError)):
        forward(PLAIN, *tensors)
    with pytest.raises((RuntimeError, IndexError)):
        backward(PLAIN, grad_y, tensors, True, True, True, integers=False)


def test_a_wrong_grad_y_is_refused():
    with pytest.raises(RuntimeError, match="grad_y must have the shape and dtype of ldcn's result"):
        backward(PLAIN, PLAIN.grad_y()[:, :5], PLAIN.tensors(), True, True, True, integers=False)
