"""Host time of a call of an op, including Python: on a GPU, a small kernel waits for it. 1000 calls on the CPU on tensors of no
elements, whose kernels have nothing to do, and on a GPU, if available, on one image of 4x4; torchvision's op beside ours, which
has the same arguments.
"""

from collections.abc import Callable

import pytest
import torch
import torchvision
from devices import ON, devices
from torch import Tensor

from dkic.ops import deform_conv2d, gaussian_likelihood, gaussian_symbols, ldcn

CALLS = 1000
ROUNDS = 30
IMAGES = {"cpu": 0, "cuda": 1}


def of_torchvision(*tensors: Tensor) -> Tensor:
    x, offset, weight, bias, mask = tensors
    return torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def of_dkic(*tensors: Tensor) -> Tensor:
    x, offset, weight, bias, mask = tensors
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


DEFORM_CONV2D = {"torchvision": of_torchvision, "dkic": of_dkic}
OTHERS: dict[str, Callable[..., object]] = {
    "ldcn": lambda x, offset, weight, bias, mask: ldcn(x, offset, mask),
    "gaussian_likelihood, noise": lambda x, *_: gaussian_likelihood(x, x, x, quantize="noise"),
    "gaussian_likelihood, round": lambda x, *_: gaussian_likelihood(x, x, x, quantize="round"),
    "gaussian_symbols": lambda x, *_: gaussian_symbols(x.detach(), x.detach(), x.detach()),
}


def repeated(call: Callable[..., object], gradients: bool, device: str) -> Callable[[], None]:
    n = IMAGES[device]
    shapes = ((n, 8, 4, 4), (n, 18, 4, 4), (8, 8, 3, 3), (8,), (n, 9, 4, 4))  # x, offset, weight, bias, mask
    tensors = [torch.ones(shape, device=device, requires_grad=gradients) for shape in shapes]

    def run() -> None:
        for _ in range(CALLS):
            call(*tensors)

    return run


def work(op: str, gradients: bool, device: str) -> str:
    return f"1000 calls of {op}{', with a graph for gradients' if gradients else ''}{ON[device]}"


@pytest.mark.parametrize("implementation", DEFORM_CONV2D)
@pytest.mark.parametrize("device", devices("triton"))
@pytest.mark.parametrize("gradients", [False, True], ids=["", "with a graph for gradients"])
def test_deform_conv2d(gradients, device, implementation, measure):
    call = repeated(DEFORM_CONV2D[implementation], gradients, device)
    measure(work("deform_conv2d", gradients, device), implementation, call, ROUNDS, device=device, host_clock=True)


@pytest.mark.parametrize("device", devices("triton"))
@pytest.mark.parametrize("gradients", [False, True], ids=["", "with a graph for gradients"])
@pytest.mark.parametrize("op", OTHERS)
def test_other_ops(op, gradients, device, measure):
    call = repeated(OTHERS[op], gradients, device)
    measure(work(op, gradients, device), "dkic", call, ROUNDS, device=device, host_clock=True)
