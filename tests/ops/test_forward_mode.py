"""Forward-mode derivatives: ops that lack them raise an error; none silently returns zero."""

import pytest
import torch
from ops.op_cases import LATENT, PLAIN, PLAIN_CONV
from torch import Tensor
from torch.autograd import forward_ad

from dkic.ops import deform_conv2d, gaussian_likelihood, ldcn, quantized_conv2d
from dkic.ops.requantize import requantize, round_ste


def conv(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    return deform_conv2d(input, offset, weight, bias, padding=1, mask=mask)


def exact(x: Tensor, multiplier: Tensor) -> Tensor:
    weight = quantized_conv2d.packed(torch.ones(2, 2, 1, 1))
    return quantized_conv2d.quantized_conv2d(x, weight, torch.zeros(2, dtype=torch.int32), multiplier, 1, 0, 0, 255)


def bits(y: Tensor, scale: Tensor, mean: Tensor) -> Tensor:
    return gaussian_likelihood(y, scale, mean, quantize="none")[1]


OPS = {
    "ldcn": (ldcn, PLAIN.tensors()),
    "deform_conv2d": (conv, PLAIN_CONV.tensors()),
    "gaussian_likelihood": (bits, LATENT.tensors()),
    "quantized_conv2d": (exact, (torch.ones(1, 2, 3, 3), torch.ones(2))),
}
ARGUMENTS = [(name, i) for name, (_, tensors) in OPS.items() for i in range(len(tensors))]


def dual(f, t: Tensor) -> None:
    with forward_ad.dual_level():
        f(forward_ad.make_dual(t, torch.ones_like(t)))


WAYS = {
    "jvp": lambda f, t: torch.func.jvp(f, (t,), (t,)),
    "jacfwd": lambda f, t: torch.func.jacfwd(f)(t),
    "dual tensors": dual,
    "of a gradient": lambda f, t: dual(f, t.clone().requires_grad_()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=str)
def test_forward_mode_is_refused(name, argument, way):
    op, tensors = OPS[name]
    with pytest.raises(NotImplementedError, match=f"^dkic.ops.{name} has no forward-mode derivative"):
        WAYS[way](lambda t: op(*tensors[:argument], t, *tensors[argument + 1 :]), tensors[argument])


@pytest.mark.parametrize("name", ["ldcn", "deform_conv2d"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: lambda t: torch.func.jvp(torch.vmap(f), (t[None],), (t[None],)),
        lambda f: torch.func.hessian(lambda t: f(t).sum()),
        lambda f: torch.func.jacfwd(torch.func.grad(lambda t: f(t).sum())),
        lambda f: torch.func.grad(lambda t: torch.func.jvp(f, (t,), (t,))[1].sum()),
    ],
    ids=["jvp of vmap", "hessian", "jacfwd of grad", "grad of jvp"],
)
def test_forward_mode_within_other_transforms_is_refused(name, transform):
    op, (x, *others) = OPS[name]
    with pytest.raises(NotImplementedError, match=f"^dkic.ops.{name} has no (forward-mode|second) derivative"):
        transform(lambda t: op(t, *others))(x)


@pytest.mark.parametrize("name", ["ldcn", "deform_conv2d"])
def test_forward_mode_without_a_tangent_is_accepted(name):
    op, tensors = OPS[name]
    with forward_ad.dual_level():
        assert torch.equal(op(*tensors), op(*tensors))
    y, tangent = torch.func.jvp(lambda s: op(*tensors) * s, (torch.tensor(2.0),), (torch.tensor(1.0),))
    assert torch.equal(tangent, op(*tensors)) and torch.equal(y, 2 * tangent)


def test_rounding_passes_tangents_straight_through():
    t = torch.tensor([0.4, 0.6, -1.2])
    y, tangent = torch.func.jvp(round_ste, (t,), (torch.tensor([1.0, 2.0, 3.0]),))
    assert torch.equal(y, t.round()) and torch.equal(tangent, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_requantize_has_the_derivative_without_rounding(biased, dtype):
    total = torch.tensor([3.0, -7.0, 900.0], dtype=dtype).view(1, 1, 1, 3)
    bias, multiplier = torch.tensor([4.0]) if biased else None, torch.tensor([0.25])
    y, by_total = torch.func.jvp(lambda t: requantize(t, bias, multiplier, -5, 9), (total,), (torch.ones_like(total),))
    assert torch.equal(y, requantize(total, bias, multiplier, -5, 9))
    assert torch.equal(by_total.flatten(), torch.tensor([0.25, 0.25, 0.0]))  # the last is clamped
    _, by_multiplier = torch.func.jvp(lambda m: requantize(total, bias, m, -5, 9), (multiplier,), (torch.ones(1),))
    shift = 4.0 if biased else 0.0
    assert torch.equal(by_multiplier.flatten(), torch.tensor([3.0 + shift, -7.0 + shift, 0.0]))


def test_reverse_mode_of_torch_func():
    """The alternative that the error message names."""
    for name in ("ldcn", "deform_conv2d", "gaussian_likelihood"):
        op, tensors = OPS[name]
        given = tuple(range(len(tensors)))
        actual = torch.func.grad(lambda *t, op=op: op(*t).square().sum(), given)(*tensors)
        leaves = [t.clone().requires_grad_() for t in tensors]
        expected = torch.autograd.grad(op(*leaves).square().sum(), leaves)
        assert all(map(torch.equal, actual, expected)), name
