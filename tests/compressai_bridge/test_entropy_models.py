"""Accelerated entropy models in training: likelihoods, gradients, indexes, mixtures."""

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import GaussianMixtureConditional
from compressai.models.base import get_scale_table
from host_reads import NoHostReads
from torch import Tensor

from dkic.compressai import accelerate, accelerated, restore

SHAPE = (2, 6, 5, 7)


def latent(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(torch.empty(SHAPE).uniform_(-3, 3, generator=generator))
    means = torch.empty(SHAPE).uniform_(-2, 2, generator=generator)
    inputs = means + scales * torch.empty(SHAPE).normal_(generator=generator)
    return [t.requires_grad_() for t in (inputs, scales, means)]


def outcome(model, tensors, training: bool) -> list[Tensor]:
    outputs, likelihood = model(*tensors, training=training)
    total = likelihood.log2().sum() + (outputs * torch.linspace(-1, 1, outputs.numel()).view(SHAPE)).sum()
    gradients = torch.autograd.grad(total, tensors, allow_unused=True)
    zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(gradients, tensors, strict=True))
    return [outputs, likelihood, *zeros]


@pytest.mark.parametrize("has_means", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gaussian_conditional(training, has_means, monkeypatch):
    model = GaussianConditional(None).double()
    tensors = [t.detach().double().requires_grad_() for t in latent()[: 3 if has_means else 2]]
    noise = torch.rand(SHAPE, dtype=torch.float64) - 0.5
    monkeypatch.setattr(Tensor, "uniform_", lambda self, *_: self.copy_(noise))
    expected = outcome(model, tensors, training)
    with accelerated(model):
        if training:  # with CompressAI's noise
            tensors[0].data += noise
            model.quantize = lambda inputs, mode, means=None: inputs
            likelihood = model._likelihood(tensors[0], *tensors[1:])
            actual = [None, torch.clamp(likelihood, min=1e-9)]
        else:
            actual = outcome(model, tensors, training)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-9, atol=1e-15)
    if not training:
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-9)


def test_noise_is_uniform_and_the_gradients_are_those_of_its_likelihood():
    model = GaussianConditional(None).train()
    tensors = latent()
    with accelerated(model):
        outputs, likelihood = model(*tensors)
    noise = outputs - tensors[0]
    assert noise.min() >= -0.5 and noise.max() <= 0.5 and noise.std() > 0.2
    expected = model.likelihood_lower_bound(model._likelihood(tensors[0] + noise.detach(), *tensors[1:]))
    torch.testing.assert_close(likelihood, expected, rtol=1e-3, atol=1e-6)
    weights = torch.linspace(-1, 1, likelihood.numel()).view(SHAPE)
    actual, theirs = (torch.autograd.grad((p * weights).sum(), tensors) for p in (likelihood, expected))
    for a, e in zip(actual, theirs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_bounds_are_read_once_and_again_after_a_change(training):
    model = accelerate(GaussianConditional(None, scale_bound=0.11))
    tensors = latent()
    model(*tensors, training=training)
    with NoHostReads():
        model(*tensors, training=training)
    scales = torch.full(SHAPE, 1e-3, dtype=tensors[0].dtype)
    changes = [
        lambda: model.lower_bound_scale.bound.fill_(2.0),
        lambda: model.load_state_dict({**model.state_dict(), "lower_bound_scale.bound": torch.tensor([3.0])}),
        lambda: model.lower_bound_scale.register_buffer("bound", torch.tensor([4.0])),
        lambda: model.double(),
    ]
    for change in changes:
        change()
        actual = model(tensors[0], scales, training=False)
        restore(model)
        expected = model(tensors[0], scales, training=False)
        accelerate(model)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e.to(a.dtype), rtol=1e-4, atol=1e-7)


def test_bounds_of_inference_mode():
    with torch.inference_mode():
        model = accelerate(GaussianConditional(None, scale_bound=0.11))
        first = model(*latent())[1]
        model.lower_bound_scale.bound.fill_(50.0)
        assert not torch.equal(model(*latent())[1], first)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_program_applies_the_bounds(training):
    model = accelerate(GaussianConditional(None, scale_bound=0.5))
    y, _, mean = (t.detach() for t in latent())
    scales = torch.full(SHAPE, 1e-3, dtype=y.dtype)
    compiled = torch.compile(lambda *t: model(*t, training=training), fullgraph=True, backend="aot_eager")
    y_hat, likelihood = compiled(y, scales, mean)
    expected = model.likelihood_lower_bound(model._likelihood(y_hat, scales, mean))
    torch.testing.assert_close(likelihood, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("filters", [(3, 3, 3, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_entropy_bottleneck(training, filters, monkeypatch):
    torch.manual_seed(0)
    model = EntropyBottleneck(6, filters=filters).double()
    model.quantiles.data[:, 0, 1].uniform_(-0.4, 0.4)
    x = (torch.randn(SHAPE, dtype=torch.float64) * 5).requires_grad_()
    leaves = [x, *model.parameters()]
    monkeypatch.setattr(Tensor, "uniform_", lambda self, *_: self.fill_(0.3))  # the same noise in either order of elements

    def outcome() -> list[Tensor]:
        outputs, likelihood = model(x, training)
        total = likelihood.log2().sum() + (outputs * torch.linspace(-1, 1, outputs.numel()).view(SHAPE)).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        zeros = (torch.zeros_like(t) if g is None else g for g, t in zip(gradients, leaves, strict=True))
        return [outputs, likelihood, *zeros]

    expected = outcome()
    with accelerated(model):
        actual = outcome()
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bound", [0.11, 0.7, 5.0])
@pytest.mark.parametrize("table", [get_scale_table(), [0.5, 1.0, 4.0], [0.11]], ids=len)
def test_indexes(table, bound):
    model = GaussianConditional(None, scale_bound=bound)
    model.update_scale_table(table)
    scales = torch.cat([latent()[1].detach().flatten(), model.scale_table, torch.tensor([0.0, -1.0, 1e9])])[None]
    expected = model.build_indexes(scales)
    with accelerated(model):
        actual = model.build_indexes(scales)
    assert actual.dtype == expected.dtype and torch.equal(actual, expected)


def test_mixtures():
    model = GaussianMixtureConditional(K=3)
    torch.manual_seed(0)
    y = torch.randn(1, 4, 5, 6) * 4
    y[:, 2] = 0.1  # a channel of zeros
    scales, means = torch.rand(1, 12, 5, 6) * 3 + 0.2, torch.randn(1, 12, 5, 6)
    weights = torch.softmax(torch.randn(1, 3, 4, 5, 6), 1).view(1, 12, 5, 6)
    (string, abs_max, bitmap), _ = model.compress(y, scales.clone(), means.clone(), weights.clone())
    y_hat = model.decompress(string, abs_max, bitmap, scales.clone(), means.clone(), weights.clone())
    likelihood = model(y, scales, means, weights, training=False)[1]
    with accelerated(model):
        (ours, *others), _ = model.compress(y, scales.clone(), means.clone(), weights.clone())
        assert ours == string and others[0] == abs_max and torch.equal(others[1], bitmap)
        assert torch.equal(model.decompress(string, abs_max, bitmap, scales.clone(), means.clone(), weights.clone()), y_hat)
        torch.testing.assert_close(model(y, scales, means, weights, training=False)[1], likelihood, rtol=1e-4, atol=1e-7)
    assert torch.equal(y_hat, y.round())


def _twice(original):
    return lambda self, *args, **kwargs: original(self, *args, **kwargs) * 2


def _straight_through(self, inputs, mode, means=None):
    return inputs.round()


HOOKS = [
    (GaussianConditional, "_standardized_cumulative", _twice(GaussianConditional._standardized_cumulative)),
    (GaussianConditional, "_likelihood", _twice(GaussianConditional._likelihood)),
    (GaussianConditional, "quantize", _straight_through),
    (EntropyBottleneck, "_logits_cumulative", _twice(EntropyBottleneck._logits_cumulative)),
    (EntropyBottleneck, "_likelihood", lambda self, inputs, *_: (inputs.sigmoid(), None, None)),
    (EntropyBottleneck, "quantize", _straight_through),
]


@pytest.mark.parametrize("of", ["class", "object"])
@pytest.mark.parametrize(("base", "name", "hook"), HOOKS, ids=[f"{base.__name__}.{name}" for base, name, _ in HOOKS])
def test_methods_that_are_overridden_are_called(base, name, hook, of):
    cls = type("Own", (base,), {name: hook}) if of == "class" else base
    torch.manual_seed(0)
    model = cls(None) if base is GaussianConditional else cls(SHAPE[1])
    if of == "object":
        setattr(model, name, hook.__get__(model))
    tensors = [t.detach() for t in latent()][: 3 if base is GaussianConditional else 1]
    training = name == "quantize"
    expected = model(*tensors, training=training)
    with accelerated(model):
        actual = model(*tensors, training=training)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-6)


def test_a_mixture_calls_an_overridden_distribution():
    class Own(GaussianMixtureConditional):
        _standardized_cumulative = _twice(GaussianConditional._standardized_cumulative)

    model = Own(K=2)
    inputs, scales, means = (t.detach() for t in latent())
    tensors = inputs, scales.repeat(1, 2, 1, 1), means.repeat(1, 2, 1, 1), torch.full((2, 12, 5, 7), 0.5)
    expected = model._likelihood(*tensors)
    with accelerated(model):
        torch.testing.assert_close(model._likelihood(*tensors), expected)
