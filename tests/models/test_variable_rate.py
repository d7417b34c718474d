"""The variable-rate network: shapes, gradients, bits, and its config."""

import json
from dataclasses import replace

import pytest
import torch
from models.variable_rate_models import CONFIG, calibrated, converted, real

from dkic.errors import DkicError
from dkic.models import PRESETS, ModelConfig, SliceSpec, StageSpec, VariableRateConfig, VariableRateDKIC, config_of, network_of
from dkic.models.complexity import complexity
from dkic.models.variable_rate import LappedAnalysis, LappedSynthesis
from dkic.quantized import dequantize


def forward(model: VariableRateDKIC, qualities: list[float], seed: int = 0):
    x = torch.rand(len(qualities), 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    return model(x, torch.Generator().manual_seed(seed), torch.tensor(qualities))


def test_shapes():
    out = forward(real(), [1.0, 40.5, 100.0])
    assert out.x_hat.shape == (3, 3, 64, 96) and out.y_hat.shape == (3, 10, 4, 6)
    assert out.bits.shape == out.quantized_bits.shape == (3,)


def test_bits_rise_with_the_quality():
    model = real()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1)
    out = model(x, torch.Generator().manual_seed(0), torch.tensor([1.0, 30.0, 60.0, 100.0]))
    assert (out.quantized_bits.diff() > 0).all() and (out.bits.diff() > 0).all()


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    model = real()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    y = model.analyze(x)
    together = model.latent_bits(y, None, torch.tensor([20.0, 90.0]))
    alone = model.latent_bits(y[1:], None, torch.tensor([90.0]))
    assert torch.allclose(together.quantized_bits[1:], alone.quantized_bits, rtol=1e-4)
    assert torch.allclose(together.y_hat[1:], alone.y_hat, atol=1e-3)


def test_the_analysis_is_the_same_at_all_qualities():
    """So a search for a target rate need not repeat it."""
    names = [name for name, _ in real().g_a.named_modules() if name.endswith(("scale", "bias", "points"))]
    assert names == []


def test_y_hat_is_within_half_a_step_of_y():
    model = real()
    y = model.analyze(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    for quality in (1.0, 55.0, 100.0):
        at = torch.tensor([quality])
        y_hat, size = model.latent_bits(y, None, at).y_hat, model.quantizer(at).size
        assert ((y_hat - y).abs() <= size / 2 + 1e-3).all()


def test_every_parameter_gets_a_gradient():
    model = real().requires_grad_(True)
    out = forward(model, [3.0, 30.0, 60.0, 97.0])
    (out.bits.sum() / 1e3 + (out.x_hat - 0.5).square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_every_pixel_is_made_of_the_four_nearest_positions():
    """And every position is made of its block and half a block around it: no edge of a block is an edge of what is seen."""
    t = torch.zeros(1, 5, 4, 6)
    t[..., 2, 3] = 1
    synthesis, analysis = LappedSynthesis(5, 8), LappedAnalysis(5, 8)
    with torch.no_grad():
        assert synthesis(t).shape == (1, 3, 32, 48)
        reached = (synthesis(t) - synthesis(0 * t)).abs().sum((0, 1)).nonzero()
        assert reached.amin(0).tolist() == [12, 20] and reached.amax(0).tolist() == [27, 35]
        outside = torch.ones(1, 3, 32, 48)
        outside[..., 12:28, 20:36] = 0
        nothing, around, within = (analysis(x)[..., 2, 3] for x in (0 * outside, outside, 1 - outside))
        assert torch.equal(around, nothing) and not torch.equal(within, nothing)


def test_every_parameter_of_the_quantized_networks_gets_a_gradient():
    model = calibrated()
    forward(model, [3.0, 30.0, 60.0, 97.0]).bits.sum().backward()
    for part, network in model.entropy_networks().items():
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, (part, name)


def test_converted_bits_are_near_those_of_the_float_networks():
    floating, integers = real(1), converted(1)
    for quality in (1.0, 50.0, 100.0):
        a, b = (forward(model, [quality]).quantized_bits.item() for model in (floating, integers))
        assert b == pytest.approx(a, rel=0.1) and a != b


def test_prepared_and_converted_networks_agree():
    before, after = calibrated(3), converted(3)
    for quality in (1.0, 33.0, 100.0):
        a, b = (forward(model, [quality]) for model in (before, after))
        assert torch.equal(a.quantized_bits, b.quantized_bits) and torch.equal(a.y_hat, b.y_hat)


@pytest.mark.parametrize("upsampling_kernel", [1, 3])
@torch.no_grad()
def test_nothing_beyond_the_receptive_field_is_used(upsampling_kernel):
    stages = (StageSpec(8, 8, 3, "conv"), StageSpec(2, 8, 1, "conv"))
    config = replace(CONFIG, analysis=stages, synthesis=stages, upsampling_kernel=upsampling_kernel)
    torch.manual_seed(0)
    model = network_of(config).double()
    generator, quality, middle = torch.Generator().manual_seed(0), torch.tensor([50.0]), 20
    x = torch.rand(1, 3, 32, 16 * 41, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 10, 2, 41, generator=generator, dtype=torch.float64)
    pixels, latent = slice(16 * middle, 16 * (middle + 1)), slice(middle, middle + 1)

    def reach(transform, t: torch.Tensor, change: slice, size: int) -> int:
        """Pixels on one side of the changed tile that follow its change."""
        changed = t.clone()
        changed[..., change] += 1
        columns = (transform(changed) != transform(t)).any(2).any(1)[0].nonzero()
        return max(16 * middle - size * int(columns.min()), size * int(columns.max() + 1) - 16 * (middle + 1))

    found = max(reach(model.analyze, x, pixels, 16), reach(lambda t: model.synthesize(t, quality), y, latent, 1))
    assert config.receptive_field - 16 < found <= config.receptive_field


def test_a_converted_network_can_be_dequantized():
    integers, model = converted(2), VariableRateDKIC(CONFIG).eval()
    model.g_a.load_state_dict(integers.g_a.state_dict())
    model.g_s.load_state_dict(integers.g_s.state_dict())
    dequantize(integers, model)
    for quality in (1.0, 40.0, 100.0):
        with torch.no_grad():
            a, b = (forward(m, [quality]).quantized_bits.item() for m in (integers, model))
        assert b == pytest.approx(a, rel=0.1)


def test_a_config_round_trips_through_json():
    config = config_of(json.loads(json.dumps(CONFIG.to_dict())))
    assert config == CONFIG and isinstance(network_of(config), VariableRateDKIC)
    assert isinstance(config_of(PRESETS["tiny"].to_dict()), ModelConfig)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("analysis", v) for v in ((), (StageSpec(8, 8, 1),), (StageSpec(4, 8, 1), StageSpec(4, 8, 1)), [StageSpec(16, 8, 1)])),
        *(("synthesis", v) for v in ((StageSpec(1, 8, 1),) * 5, None)),
        *(("slices", v) for v in ((), (SliceSpec(1, 1),) * 17)),
        *(("quality_points", v) for v in (1, 101, 2.0, None)),
        *((name, v) for name in ("context_channels", "quality_features") for v in (0, 1025, True)),
        *(("upsampling_kernel", v) for v in (0, 2, 9, None)),
    ],
)
def test_invalid_numbers_are_refused(name, value):
    with pytest.raises(DkicError, match=f"^{name}: .*; give "):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize(
    "values",
    [(0, 8, 1), (17, 8, 1), (8, 0, 1), (8, 8, -1), (8, 8, 17), (8, 8, 1, "dcn"), (8, 8, 1, "ldcn", 3), (8, 8, 1, "ldcn", 0)],
)
def test_an_invalid_stage_is_refused(values):
    with pytest.raises(DkicError, match="^stage.*; give "):
        StageSpec(*values)


def test_upsampling_kernels():
    values = CONFIG.to_dict()
    assert values.pop("upsampling_kernel") == 3 and VariableRateConfig.from_dict(values) == CONFIG  # of the first weights files
    y_hat, quality = torch.randn(1, 10, 4, 6), torch.tensor([50.0])
    for kernel in (1, 5):
        model = VariableRateDKIC(replace(CONFIG, upsampling_kernel=kernel))
        assert [up[0].kernel_size for up in model.g_s.upsamplings] == [(kernel, kernel)] * 2
        assert model.synthesize(y_hat, quality).shape == (1, 3, 64, 96)


def test_unknown_keys_are_named():
    with pytest.raises(DkicError, match="depth"):
        VariableRateConfig.from_dict(CONFIG.to_dict() | {"depth": 3})


def test_small_is_within_its_complexity_budget():
    cost = complexity(PRESETS["small"])
    assert cost.parameters <= 6e6 and cost.encode <= 25 and cost.decode <= 40
