"""dkic.ops.factorized_likelihood against CompressAI's EntropyBottleneck."""

import math

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from dkic.ops import factorized_likelihood

SHAPES = [(1, 1), (3, 5), (2, 7, 3, 5), (4, 3, 16), (1, 2, 3, 4, 5), (0, 3, 2, 2), (2, 3, 0)]


def bottleneck(channels: int, dtype=torch.float64, seed: int = 0) -> EntropyBottleneck:
    torch.manual_seed(seed)
    model = EntropyBottleneck(channels).double()
    for parameter in [*model.matrices, *model.biases, *model.factors]:
        parameter.data += torch.empty_like(parameter).uniform_(-0.6, 0.6)
    return model.to(dtype)


def values(shape, dtype=torch.float64) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 8).to(dtype).requires_grad_()


def parameters(model: EntropyBottleneck) -> list[list[Tensor]]:
    return [list(model.matrices), list(model.biases), list(model.factors)]


def plain(model: EntropyBottleneck, x: Tensor) -> Tensor:
    by_channel = x.transpose(0, 1)
    return model._likelihood(by_channel.flatten(1)[:, None])[0].reshape(by_channel.shape).transpose(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_compressai(shape, dtype):
    model = bottleneck(shape[1])
    x, same = values(shape), values(shape, dtype)
    own = bottleneck(shape[1], dtype)
    leaves, own_leaves = [[x, *sum(parameters(m), [])] for x, m in ((x, model), (same, own))]
    expected, actual = plain(model, x), factorized_likelihood(same, *parameters(own))
    tolerance = {"rtol": 1e-11, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 1e-6}
    assert actual.shape == x.shape and actual.dtype == dtype and actual.is_contiguous()
    torch.testing.assert_close(actual.double(), expected, **tolerance)
    grad = torch.randn(shape, dtype=torch.float64)
    grads = torch.autograd.grad(expected, leaves, grad), torch.autograd.grad(actual, own_leaves, grad.to(dtype))
    for e, a in zip(*grads, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=tolerance["rtol"] * 10, atol=tolerance["atol"] * 10)


def test_the_bound_and_its_gradient():
    model, x = bottleneck(2), torch.full((1, 2, 4), 60.0, dtype=torch.float64, requires_grad=True)
    likelihood = factorized_likelihood(x, *parameters(model), likelihood_min=1e-3)
    assert torch.equal(likelihood, torch.full_like(x, 1e-3))
    up, down = (torch.autograd.grad(likelihood.sum() * sign, x, retain_graph=True)[0] for sign in (-1, 1))
    assert (down == 0).all() and (up > 0).all()  # a descent step lowers x, toward the density


def test_far_out_and_not_finite():
    x = torch.tensor([[[1e4, -1e4, 1e30, math.nan, math.inf]]], requires_grad=True)
    likelihood = factorized_likelihood(x, *parameters(bottleneck(1, torch.float32)))
    assert (likelihood[0, 0, :3] >= 0).all() and (likelihood[0, 0, :3] < 1e-6).all() and likelihood[0, 0, 3].isnan()
    (grad,) = torch.autograd.grad(likelihood[..., :3].sum(), x)
    assert grad[0, 0, :3].isfinite().all()


def test_threads_and_layouts():
    model, x = bottleneck(6, torch.float32), values((3, 6, 5, 7), torch.float32)
    expected = factorized_likelihood(x, *parameters(model))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(factorized_likelihood(x, *parameters(model)), expected)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(factorized_likelihood(x.to(memory_format=torch.channels_last), *parameters(model)), expected)


def test_inside_torch():
    model, x = bottleneck(3), values((2, 3, 4))
    packed = torch.rand(3, 58, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.dkic.factorized_likelihood.default, (x, packed, 1e-9))
    likelihood = torch.rand(2, 3, 4, dtype=torch.float64)
    arguments = (likelihood, x.detach(), packed.detach(), likelihood, 1e-9)
    torch.library.opcheck(torch.ops.dkic.factorized_likelihood_backward.default, arguments)
    compiled = torch.compile(lambda x: factorized_likelihood(x, *parameters(model)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), factorized_likelihood(x, *parameters(model)))
    (grad,) = torch.autograd.grad(factorized_likelihood(x, *parameters(model)).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("changes", "exception", "token"),
    [
        ({"x": lambda t: t.int()}, TypeError, "x"),
        ({"x": lambda t: t[0, 0]}, ValueError, "x"),
        ({"x": lambda t: t[:, :1]}, ValueError, "matrices"),
        ({"matrices": lambda t: t[:4]}, ValueError, "matrices"),
        ({"biases": lambda t: [*t[:4], t[3]]}, ValueError, "biases"),
        ({"factors": lambda t: t[:3]}, ValueError, "factors"),
        ({"likelihood_min": lambda t: -1.0}, ValueError, "likelihood_min"),
    ],
)
def test_wrong_arguments(changes, exception, token):
    names = ("x", "matrices", "biases", "factors", "likelihood_min")
    good = dict(zip(names, (values((1, 2, 3)), *parameters(bottleneck(2)), 0.0), strict=True))
    wrong = {**good, **{name: change(good[name]) for name, change in changes.items()}}
    with pytest.raises(exception, match=f"factorized_likelihood/{token}"):
        factorized_likelihood(*(wrong[name] for name in names[:4]), likelihood_min=wrong["likelihood_min"])


@pytest.mark.parametrize("wrong", [torch.rand(3, 57), torch.rand(2, 58), torch.rand(3, 58).double(), torch.rand(58, 3).t()])
def test_native_code_refuses_parameters(wrong):
    with pytest.raises(RuntimeError, match="parameters"):
        torch.ops.dkic.factorized_likelihood(torch.rand(2, 3, 4), wrong, 0.0)
