"""Expected results of ldcn for a case, and tolerances."""

import torch
from ops import tolerances
from ops.op_cases import LdcnCase
from torch import Tensor

from dkic.ops import reference


def of_reference(case: LdcnCase, tensors: tuple[Tensor | None, ...], grad_y: Tensor) -> list[Tensor]:
    """y and the gradients of x, offset and mask (if present), in float64."""
    leaves = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
    y = reference.ldcn(*leaves, **case.geometry)
    return [y.detach(), *torch.autograd.grad(y, [t for t in leaves if t is not None], grad_y.double())]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Tolerance for results that are rounded once, after accumulation in float32 (float64 for float64)."""
    assert len(actual) == len(expected)
    for name, a, e in zip(("y", "x", "offset", "mask"), actual, expected, strict=False):
        assert a.shape == e.shape, name
        if a.dtype == torch.float64:
            torch.testing.assert_close(a, e, msg=lambda text, name=name: f"{name}: {text}", **tolerances.FLOAT64, equal_nan=True)
            continue
        assert torch.equal(a.isnan(), e.isnan()), name
        spacing = tolerances.HALF_SPACING[a.dtype]
        a, e = a.nan_to_num().double(), e.nan_to_num()
        largest = e.abs().max().item() if e.numel() else 0.0
        excess = (a - e).abs() - spacing * e.abs() - tolerances.FLOAT32_SUMS * largest
        assert not (excess > 0).any(), f"{name}: {(a - e).abs().max()}"
