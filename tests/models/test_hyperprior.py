"""The hyper-prior: shapes of the networks, and the factorized prior compared with CompressAI's and with its tables."""

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck

from dkic.models import PRESETS
from dkic.models.hyperprior import FactorizedPrior, HyperAnalysis, HyperSynthesis

CHANNELS = 5


@pytest.fixture
def prior() -> FactorizedPrior:
    """As training might leave it: channels differ, densities are neither symmetric nor centered on 0."""
    torch.manual_seed(0)
    prior = FactorizedPrior(CHANNELS)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
        prior.biases[0] += 3 * torch.randn_like(prior.biases[0])
    return prior


def test_shapes_of_the_networks():
    config = PRESETS["tiny"]
    y = torch.randn(2, config.latent_channels, 8, 12)
    z = HyperAnalysis(config)(y)
    assert z.shape == (2, config.hyper_channels, 2, 3)
    assert HyperSynthesis(config)(z).shape == (2, config.hyper_features, 8, 12)


def test_bits_equal_compressais(prior):
    """In float64, since CompressAI's difference on the upper tail is inaccurate in float32."""
    prior, peer = prior.double(), EntropyBottleneck(CHANNELS, filters=(3, 3, 3)).double()
    ours = [*prior.matrices, *prior.biases, *prior.factors]
    theirs = [p for kind in ("matrices", "biases", "factors") for p in parameters_of(peer, kind)]
    with torch.no_grad():
        for target, source in zip(theirs, ours, strict=True):
            target.copy_(source)
        z = 40 * torch.randn(3, CHANNELS, 4, 6, dtype=torch.float64)
        likelihood, *_ = peer._likelihood(z.transpose(0, 1).reshape(CHANNELS, 1, -1))
        likelihood = likelihood.clamp_min(1e-9).reshape(CHANNELS, 3, 4, 6).transpose(0, 1)
        torch.testing.assert_close(prior.bits(z), -torch.log2(likelihood), rtol=0, atol=1e-5)
    assert prior.bits(z).std() > 1


def parameters_of(peer: EntropyBottleneck, kind: str) -> list[torch.nn.Parameter]:
    """CompressAI has kept them under numbered names and in lists, in different versions."""
    if hasattr(peer, kind):
        return list(getattr(peer, kind))
    singular = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}[kind]
    named = dict(peer.named_parameters())
    return [named[f"{singular}{i}"] for i in range(len(named)) if f"{singular}{i}" in named]


def test_probabilities_sum_to_one(prior):
    grid = torch.arange(-3000.0, 3001, dtype=torch.float64).expand(CHANNELS, 1, -1)
    total = prior.double().probability(grid).sum((1, 2))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


def test_tables_agree_with_the_probabilities(prior):
    tables = prior.tables()
    assert len(tables) == CHANNELS
    prior = prior.double()
    for c in range(CHANNELS):
        length, offset = tables.length[c] - 1, tables.offset[c]
        z = torch.arange(offset, offset + length, dtype=torch.float64)
        p = prior.probability(z.expand(CHANNELS, 1, -1))[c, 0].detach().numpy()
        frequencies = tables.frequencies[c, :length]
        assert p.sum() > 0.999, "the table covers the mass"
        assert np.abs(frequencies - p * 65536).max() < max(2, 0.001 * 65536 * p.max())
        # Cost of integer frequencies compared with the density, in bits per symbol.
        assert (p * (np.log2(p) - np.log2(frequencies / 65536))).sum() < 0.005


def test_coding_with_the_tables_needs_the_estimated_bits(prior):
    """Symbols drawn from the density itself."""
    tables = prior.tables()
    chosen = np.random.default_rng(0)
    z = np.empty((1, CHANNELS, 50, 80))
    for c in range(CHANNELS):
        frequencies = tables.frequencies[c, : tables.length[c] - 1]
        drawn = chosen.choice(len(frequencies), size=(50, 80), p=frequencies / frequencies.sum())
        z[0, c] = drawn + tables.offset[c]
    estimated = prior.bits(torch.from_numpy(z).float()).sum().item()
    indexes = np.broadcast_to(np.arange(CHANNELS)[:, None, None], z[0].shape)
    assert tables.ideal_bits(z[0].astype(np.int32), indexes) == pytest.approx(estimated, rel=0.002)


def test_a_density_far_from_zero_still_has_a_table(prior):
    with torch.no_grad():
        prior.biases[0] += 1e6
    tables = prior.tables()
    assert len(tables) == CHANNELS  # every symbol escapes; `Tables` checks the rest
    assert np.isfinite(tables.ideal_bits(np.arange(CHANNELS), np.arange(CHANNELS)))
