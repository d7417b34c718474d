"""Host time of a call of an op, including Python: on a GPU, a small kernel waits for it. 1000 calls on tensors
of no elements, whose kernels have nothing to do; torchvision's op beside ours, which has the same arguments.
"""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from dkic.ops import deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn

CALLS = 1000
ROUNDS = 30


def of_torchvision(*tensors: Tensor) -> Tensor:
    x, offset, weight, bias, mask = tensors
    return torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def of_dkic(*tensors: Tensor) -> Tensor:
    x, offset, weight, bias, mask = tensors
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


SHAPES = ((0, 8, 4, 4), (0, 18, 4, 4), (8, 8, 3, 3), (8,), (0, 9, 4, 4))  # x, offset, weight, bias, mask
DEFORM_CONV2D = {"torchvision": of_torchvision, "dkic": of_dkic}
OTHERS: dict[str, Callable[..., object]] = {
    "ldcn": lambda x, offset, weight, bias, mask: ldcn(x, offset, mask),
    "gaussian_likelihood, noise": lambda x, *_: gaussian_likelihood(x, x, x, quantize="noise"),
    "gaussian_likelihood, round": lambda x, *_: gaussian_likelihood(x, x, x, quantize="round"),
    "gaussian_symbols": lambda x, *_: gaussian_symbols(x.detach(), x.detach(), x.detach()),
}


def repeated(call: Callable[..., object], gradients: bool) -> Callable[[], None]:
    tensors = [torch.ones(shape, requires_grad=gradients) for shape in SHAPES]

    def run() -> None:
        for _ in range(CALLS):
            call(*tensors)

    return run


@pytest.mark.parametrize("implementation", DEFORM_CONV2D)
@pytest.mark.parametrize("gradients", [False, True], ids=["", "with a graph for gradients"])
def test_deform_conv2d(gradients, implementation, measure):
    work = f"1000 calls of deform_conv2d{', with a graph for gradients' if gradients else ''}"
    measure(work, implementation, repeated(DEFORM_CONV2D[implementation], gradients), ROUNDS)


@pytest.mark.parametrize("gradients", [False, True], ids=["", "with a graph for gradients"])
@pytest.mark.parametrize("op", OTHERS)
def test_other_ops(op, gradients, measure):
    work = f"1000 calls of {op}{', with a graph for gradients' if gradients else ''}"
    measure(work, "dkic", repeated(OTHERS[op], gradients), ROUNDS)
