"""Dequantization: a float model that equals the quantized one."""

import copy

import numpy as np
import pytest
import torch
from quantized.quantized_models import converted, decisions, latents, real
from torch import Tensor

from dkic.entropy.tables import gaussian_tables
from dkic.models import DKIC
from dkic.models.hyperprior import FactorizedPrior
from dkic.models.trainable import trainable
from dkic.models.weights_file import Weights, load_weights, save_weights
from dkic.quantized import prepare


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Weights:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = converted(3)
    save_weights(path, model, 1, {}, gaussian_tables().concat(model.prior.tables()))
    return load_weights(path)


@pytest.fixture(scope="module")
def model(weights) -> DKIC:
    return trainable(weights)


def within() -> tuple[Tensor, Tensor]:
    """z_hat and y within the range of the activation scales."""
    z_hat, y = latents(2)
    return z_hat.clamp(-9, 9), y.clamp(-12, 12)


def test_means_and_scales_are_nearly_equal(weights, model):
    for ours, theirs in zip(decisions(model, *within()), decisions(weights.model, *within()), strict=True):
        (mean, index), (exact_mean, exact_index) = ours, theirs
        assert (mean - exact_mean).abs().mean() < 0.2 * exact_mean.std()
        assert (index.clamp(0, 63) - exact_index).abs().mean() < 0.6


def test_the_prepared_model_agrees_with_the_quantized_model(weights, model):
    """Except for the last bit of a multiplier, which may round a number between two integers differently."""
    prepared = copy.deepcopy(model)
    prepare(prepared)
    pairs = zip(decisions(prepared, *within()), decisions(weights.model, *within()), strict=True)
    equal = [(a == b).float().mean().item() for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(equal) > 0.995


def test_transforms_equal_the_files(weights, model):
    for part in ("g_a", "g_s", "h_a"):
        ours, theirs = getattr(model, part).state_dict(), getattr(weights.model, part).state_dict()
        assert all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_every_parameter_gets_a_gradient(model):
    z_hat, y = within()
    out = model.latent_bits(y, z_hat, torch.Generator().manual_seed(0))
    out.bits.sum().backward()
    for part in (model.h_s, model.context):
        for name, parameter in part.named_parameters():
            assert parameter.dtype == torch.float32 and parameter.grad.abs().max() > 0, name


def test_float_weights_are_unchanged(tmp_path):
    model = real()
    save_weights(tmp_path / "real.safetensors", model, 1, {})
    again = trainable(load_weights(tmp_path / "real.safetensors"))
    for name, t in again.state_dict().items():
        if not name.startswith("prior.") and not name.endswith(".size"):
            assert torch.equal(t, model.state_dict()[name].half().float()), name


@pytest.mark.parametrize("width", [0.05, 1.0, 20.0])
def test_a_prior_is_fitted_to_the_density_of_its_tables(width):
    torch.manual_seed(0)
    source, other = FactorizedPrior(5, width), FactorizedPrior(5)
    tables = source.tables()
    other.learn(tables)
    symbols = torch.tensor(tables.offset)[:, None] + torch.arange(tables.frequencies.shape[1] - 1)
    with torch.no_grad():
        p, q = (prior.probability(symbols[:, None].float()).squeeze(1) for prior in (source, other))
    assert (p - q).abs().sum(1).max() < 0.05
