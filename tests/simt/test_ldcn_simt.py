"""ldcn's CUDA kernels, run on the CPU by the emulator, give what the specification gives."""

from pathlib import Path

import pytest
import torch
from ops import tolerances
from ops.layouts import channels_last
from ops.op_cases import LDCN_CASES, LDCN_FEW, LdcnCase
from simt.compilers import SANITIZERS, SIMT, compile_cpp
from simt.ldcn_program import run
from torch import Tensor

from dkic.ops import reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "ldcn_main.cpp", tmp_path_factory.mktemp("ldcn") / "ldcn")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory) -> Path:
    return compile_cpp(SIMT / "ldcn_main.cpp", tmp_path_factory.mktemp("ldcn") / "sanitized", *SANITIZERS)


def of_reference(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> list[Tensor]:
    """y and the gradients, in float64."""
    leaves = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    y = reference.ldcn(*leaves, **case.geometry)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad_y.double())]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Each result is rounded once, after sums in float32 (float64 for float64)."""
    assert len(actual) == len(expected)
    for name, a, e in zip(("y", "x", "offset", "mask"), actual, expected, strict=False):
        assert a.shape == e.shape, name
        if a.dtype == torch.float64:
            torch.testing.assert_close(a, e, msg=lambda text, name=name: f"{name}: {text}", **tolerances.FLOAT64, equal_nan=True)
            continue
        assert torch.equal(a.isnan(), e.isnan()), name
        a, e = a.nan_to_num().double(), e.nan_to_num()
        largest = e.abs().max().item() if e.numel() else 0.0
        allowed = tolerances.HALF_SPACING[actual[0].dtype] * e.abs() if name in ("y", "x") else 0
        excess = (a - e).abs() - allowed - tolerances.FLOAT32_SUMS * largest
        assert not (excess > 0).any(), f"{name}: {(a - e).abs().max()}"


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
    assert_close(run(program, case, tensors, grad_y, order="forward").tensors, expected)
    # The same again by few blocks, each with several shares, which finds what one share leaves behind in shared memory.
    assert_close(run(program, case, tensors, grad_y, order="shuffled", blocks=2).tensors, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LDCN_FEW, ids=str)
def test_under_sanitizers(sanitized, case, dtype):
    tensors, grad_y = problem(case, dtype)
    assert_close(run(sanitized, case, tensors, grad_y, order="reverse", blocks=3).tensors, of_reference(case, tensors, grad_y))
