"""Likelihoods instead of bits, and scales and means that broadcast."""

import math

import pytest
import torch
from ops.op_cases import LATENT, LIKELIHOOD_CASES, LikelihoodCase

from dkic.ops import gaussian_likelihood, reference

TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.float64: {"rtol": 1e-10, "atol": 1e-13}}


def outcome(op, tensors, grads, **options) -> list[torch.Tensor]:
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = op(*tensors, output="likelihood", **options)
    given = [t for t in tensors if t is not None]
    return [*outputs, *torch.autograd.grad(outputs, given, [g.to(o.dtype) for g, o in zip(grads, outputs, strict=True)])]


def assert_equal_to_the_reference(case: LikelihoodCase, dtype: torch.dtype, tensors=None, **options) -> None:
    tensors = case.tensors(dtype) if tensors is None else tensors
    grads = case.gradients("none")
    actual = outcome(gaussian_likelihood, tensors, grads, **options)
    doubles = [None if t is None else t.double() for t in tensors]
    if options.get("noise") is not None:
        options["noise"] = options["noise"].double()
    for a, e in zip(actual, outcome(reference.gaussian_likelihood, doubles, grads, **options), strict=True):
        assert a.shape == e.shape
        torch.testing.assert_close(a.double(), e, **TOLERANCE[dtype])


@pytest.mark.parametrize("likelihood_min", [0.0, 1e-9, 0.1])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", [case for case in LIKELIHOOD_CASES if math.prod(case.shape)], ids=str)
def test_equals_reference(case, dtype, likelihood_min):
    assert_equal_to_the_reference(case, dtype, quantize="noise", noise=case.noise(dtype), likelihood_min=likelihood_min)


@pytest.mark.parametrize("quantize", ["round", "none"])
def test_equals_reference_without_noise(quantize):
    assert_equal_to_the_reference(LATENT, torch.float32, quantize=quantize)


@pytest.mark.parametrize("shape", [(), (7,), (6, 1, 1), (1, 6, 1, 1), (2, 1, 5, 1)], ids=str)
def test_scale_and_mean_broadcast(shape):
    y, scale, mean = LATENT.tensors()
    small = [t[tuple(slice(0, size) for size in (*(1,) * (4 - len(shape)), *shape))].reshape(shape) for t in (scale, mean)]
    for tensors in ((y, small[0], mean), (y, scale, small[1]), (y, *small)):
        assert_equal_to_the_reference(LATENT, torch.float64, tensors, quantize="none")
        bits = gaussian_likelihood(*tensors, quantize="none")[1]
        assert torch.equal(bits, gaussian_likelihood(y, *(t.expand(y.shape) for t in tensors[1:]), quantize="none")[1])


def test_limits():
    v = torch.tensor([0.0, 5.0, 1e4, math.inf, 1.0, math.nan, 1.0, -math.inf])
    scale = torch.tensor([0.11, 0.11, 0.5, 1.0, math.inf, 1.0, math.nan, 2.0])
    v.requires_grad_(), scale.requires_grad_()
    likelihood = gaussian_likelihood(v, scale, quantize="none", output="likelihood")[1]
    assert likelihood[0].item() == pytest.approx(1, abs=1e-5) and torch.equal(likelihood[[1, 2, 3, 4, 7]], torch.zeros(5))
    grads = torch.autograd.grad(likelihood.sum(), (v, scale))
    for values in (likelihood, *grads):
        assert torch.equal(values.isnan(), torch.tensor([i in (5, 6) for i in range(8)]))
    bounded = gaussian_likelihood(v, scale, quantize="none", output="likelihood", likelihood_min=1e-9)[1]
    assert torch.equal(bounded[[1, 2, 3, 4, 7]], torch.full((5,), 1e-9)) and bounded[[5, 6]].isnan().all()


def test_the_gradient_at_the_bound_only_leads_up():
    v, scale = torch.tensor([4.0, 4.0]), torch.tensor([0.7, 0.7], requires_grad=True)
    likelihood = gaussian_likelihood(v, scale, quantize="none", output="likelihood", likelihood_min=1e-3)[1]
    (grad,) = torch.autograd.grad(likelihood, scale, torch.tensor([1.0, -1.0]))
    assert grad[0] == 0 and grad[1] < 0
