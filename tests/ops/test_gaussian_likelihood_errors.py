"""Errors of dkic.ops.gaussian_likelihood; its native code, called without the checks in Python, never crashes."""

import math

import pytest
import torch
from ops.op_cases import LATENT

from dkic.ops import gaussian_likelihood


def changed(**changes) -> dict:
    """Good arguments with some changed: a function is given the good one."""
    y, scale, mean = LATENT.tensors(torch.float32)
    good = {"y": y, "scale": scale, "mean": mean, "quantize": "noise", "noise": LATENT.noise(torch.float32)}
    return {**good, **{name: change(good[name]) if callable(change) else change for name, change in changes.items()}}


FLOATS = "must be float32, float64, float16 or bfloat16, and is"
SHAPE = "must have y's shape [2, 6, 5, 7], and has"
BROADCAST = "must broadcast to y's shape [2, 6, 5, 7], and has"

# What is changed, the exception, and its message after "gaussian_likelihood/".
WRONG = [
    *(
        entry
        for name in ("scale", "mean", "noise")
        for entry in (
            (dict([(name, 0.5)]), TypeError, f"{name}: must be a tensor, and is a float"),
            (dict([(name, lambda t: t.int())]), TypeError, f"{name}: {FLOATS} int32"),
            (dict([(name, lambda t: t.to("meta"))]), ValueError, f"{name}: must be on y's device cpu, and is on meta"),
        )
    ),
    (dict(noise=lambda t: t[0]), ValueError, f"noise: {SHAPE} [6, 5, 7]"),
    (dict(noise=lambda t: t[:, :1]), ValueError, f"noise: {SHAPE} [2, 1, 5, 7]"),  # not broadcast
    (dict(noise=lambda t: t.sum()), ValueError, "noise: must have a batch dimension, and has shape []"),
    *(
        (dict([(name, change)]), ValueError, f"{name}: {BROADCAST} {shape}")
        for name in ("scale", "mean")
        for change, shape in (
            (lambda t: t[:, :5], "[2, 5, 5, 7]"),
            (lambda t: t[None], "[1, 2, 6, 5, 7]"),
            (lambda t: t[0, :, 0, 0], "[6]"),
            (lambda t: t[:0], "[0, 6, 5, 7]"),
        )
    ),
    (dict(output="nats"), ValueError, "output: must be one of bits, likelihood, and is 'nats'"),
    (dict(output="likelihood", likelihood_min="0"), TypeError, "likelihood_min: must be a number, and is a str"),
    (dict(output="likelihood", likelihood_min=-1e-9), ValueError, "likelihood_min: must be from 0 to 1, and is -1e-09"),
    (dict(output="likelihood", likelihood_min=math.nan), ValueError, "likelihood_min: must be from 0 to 1, and is nan"),
    (dict(likelihood_min=1e-9), ValueError, "likelihood_min: must be 0 for output='bits', which has no bound"),
    (
        dict(output="likelihood", reduction="sum"),
        ValueError,
        "reduction: must be 'none' for output='likelihood'; sum its logarithms",
    ),
    (dict(y=None), TypeError, "y: must be a tensor, and is a NoneType"),
    (dict(y=lambda t: t.numpy()), TypeError, "y: must be a tensor, and is a ndarray"),
    (dict(y=lambda t: t.long()), TypeError, f"y: {FLOATS} int64"),
    (dict(y=lambda t: t.to(torch.complex64)), TypeError, f"y: {FLOATS} complex64"),
    (dict(y=lambda t: t.sum()), ValueError, "y: must have a batch dimension, and has shape []"),
    (dict(y=lambda t: t[:1]), ValueError, "scale: must broadcast to y's shape [1, 6, 5, 7], and has [2, 6, 5, 7]"),
    (dict(scale=None), TypeError, "scale: must be a tensor, and is a NoneType"),
    (dict(quantize="ste"), ValueError, "quantize: must be one of noise, round, none, and is 'ste'"),
    (dict(quantize=None), ValueError, "quantize: must be one of noise, round, none, and is None"),
    (dict(reduction="mean"), ValueError, "reduction: must be one of none, sum, and is 'mean'"),
    (dict(scale_min="0.11"), TypeError, "scale_min: must be a number, and is a str"),
    (dict(scale_min=torch.tensor(0.11)), TypeError, "scale_min: must be a number, and is a Tensor"),
    *(
        (dict(scale_min=wrong), ValueError, f"scale_min: must be from 0.0001 to 1e+08, and is {wrong}")
        for wrong in (0, -0.1, 1e-46, 1e39, math.inf, math.nan)
    ),
    (dict(quantize="round"), ValueError, "noise: must be None for quantize='round', which draws no noise"),
    (
        dict(quantize="none", noise=None, generator=torch.Generator()),
        ValueError,
        "generator: must be None for quantize='none', which draws no noise",
    ),
    (dict(generator=torch.Generator()), ValueError, "generator: must be None where noise is given"),
    (
        dict(noise=None, generator=3),
        TypeError,
        "generator: must be a torch.Generator, and is a int; seed one with manual_seed",
    ),
    (dict(scale_min=True), TypeError, "scale_min: must be a number, and is a bool"),
    (dict(output="likelihood", likelihood_min=True), TypeError, "likelihood_min: must be a number, and is a bool"),
    (dict(noise=lambda t: t.requires_grad_()), ValueError, "noise: must not require a gradient, and does"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "exception", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_wrong_argument_is_named(changes, exception, message):
    arguments = changed(**changes)
    with pytest.raises(exception) as caught:
        gaussian_likelihood(**arguments)
    assert str(caught.value) == f"gaussian_likelihood/{message}"


def test_quantize_must_be_given():
    with pytest.raises(TypeError, match="quantize"):
        gaussian_likelihood(*LATENT.tensors())


def test_a_device_without_kernels_is_refused(monkeypatch):
    from dkic.ops import backends

    reason = "There is none."
    monkeypatch.setattr(backends, "_running", set())
    monkeypatch.setattr(backends, "op_unavailable_reason", lambda op, device: reason)
    with pytest.raises(RuntimeError) as caught:
        gaussian_likelihood(**changed())
    assert str(caught.value) == reason


def test_second_derivative_is_refused():
    y, scale, mean = (t.requires_grad_() for t in LATENT.tensors())
    bits = gaussian_likelihood(y, scale, mean, quantize="round")[1]
    (grad_y,) = torch.autograd.grad(bits.square().sum(), y, create_graph=True)
    with pytest.raises(NotImplementedError, match="gaussian_likelihood has no second derivative"):
        grad_y.sum().backward()


# ---- Past the checks ----

BAD_TENSORS = [
    lambda t: t[0],
    lambda t: t[:1],
    lambda t: t[:, :5],
    lambda t: t[..., :6],
    lambda t: t.new_empty(2, 6, 5, 8),
    lambda t: t[None],
    lambda t: t.sum(),
    lambda t: t.int(),
    lambda t: t.to(torch.complex64),
    lambda t: t.to_sparse(),
]


def native(y, scale, mean, noise, seed=None, rounded=False, scale_min=0.11):
    return torch.ops.dkic.gaussian_likelihood(y, scale, mean, noise, seed, rounded, scale_min, False, True, True)


@pytest.mark.parametrize("change", BAD_TENSORS, ids=range(len(BAD_TENSORS)))
@pytest.mark.parametrize("which", ["y", "scale", "mean", "noise"])
def test_native_code_refuses_tensors(which, change):
    arguments = changed(**{which: change})
    arguments.pop("quantize")
    with pytest.raises((RuntimeError, NotImplementedError)):
        native(**arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(rounded=True),
        dict(seed=torch.tensor(1)),
        dict(noise=None, rounded=True, seed=torch.tensor(1)),
        dict(noise=None, seed=torch.tensor([1, 2])),
        dict(noise=None, seed=torch.tensor(1, dtype=torch.int32)),
        dict(noise=None, seed=torch.tensor(1.0)),
        dict(scale_min=0.0),
        dict(scale_min=math.nan),
    ],
    ids=range(8),
)
def test_native_code_refuses_options(wrong):
    arguments = {**changed(), **wrong}
    arguments.pop("quantize")
    with pytest.raises(RuntimeError, match="gaussian_likelihood: "):
        native(**arguments)


@pytest.mark.parametrize("change", BAD_TENSORS, ids=range(len(BAD_TENSORS)))
@pytest.mark.parametrize("which", range(5))
def test_native_backward_refuses_tensors(which, change):
    tensors = [torch.ones(LATENT.shape) for _ in range(5)]
    tensors[which] = change(tensors[which])
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ops.dkic.gaussian_likelihood_backward(*tensors, 0.11, True, True, True)


def test_native_backward_refuses_what_was_not_saved():
    y, scale, mean = (t.requires_grad_() for t in LATENT.tensors())
    bits = torch.ops.dkic.gaussian_likelihood(y, scale, mean, None, None, True, 0.11, False, True, False)[1]
    with pytest.raises(RuntimeError, match="called without need_v or need_scale"):
        bits.sum().backward()
