"""Model configs, and the complexity of each preset."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dkic.errors import DkicError
from dkic.models import DKIC, PRESETS, LDCNBlock, ModelConfig, SliceSpec, config_of
from dkic.models.complexity import complexity


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_round_trips_through_json(preset):
    config = PRESETS[preset]
    assert config_of(json.loads(json.dumps(config.to_dict()))) == config


def test_wrong_keys_are_named():
    values = PRESETS["tiny"].to_dict()
    with pytest.raises(DkicError, match=r"unknown or missing keys \['depth'\]"):
        ModelConfig.from_dict(values | {"depth": 3})
    del values["hyper_groups"]
    with pytest.raises(DkicError, match=r"unknown or missing keys \['hyper_groups'\]"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize(
    ("channels", "passes"), [(0, 1), (-1, 2), (8, 3), (8, 0), (8, 8), (1025, 1), (True, 1), (8, 2.0), ("8", 1)]
)
def test_an_invalid_slice_is_refused(channels, passes):
    with pytest.raises(DkicError, match="1, 2 or 4 passes"):
        SliceSpec(channels, passes)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("widths", v) for v in ((24, 48, 3000), (24, 48), (0, 48, 96), (24.0, 48, 96), [24, 48, 96], 24, "abc")),
        *(("groups", v) for v in ((1, 3, 0), (1, 3, 5), (True, 3, 6))),
        *(("bottlenecks", v) for v in ((1, 2, 10**9), (1, 2, -1))),
        *(("slices", v) for v in ((), (SliceSpec(1, 1),) * 17, (SliceSpec(1024, 1), SliceSpec(1, 1)), [SliceSpec(8, 1)])),
        *(("hyper_channels", v) for v in (0, 193, 65, None)),
        *(("hyper_groups", v) for v in (0, 3, 4.0)),
        *((name, v) for name in ("hyper_features", "context_channels") for v in (0, 1025, 2.5, True, "96")),
    ],
)
def test_invalid_numbers_are_refused(name, value):
    with pytest.raises(DkicError, match=f"^({name}|groups): .*; give "):
        replace(PRESETS["tiny"], **{name: value})


def test_every_table_has_an_index_of_one_byte():
    assert replace(PRESETS["tiny"], hyper_channels=192).hyper_channels == 192


def test_latent_channels_are_the_sum_of_the_slices():
    config = replace(PRESETS["tiny"], slices=(SliceSpec(3, 4), SliceSpec(5, 1)))
    assert config.latent_channels == 8
    assert DKIC(config).g_a(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 4, 4)


def test_tiny_is_within_its_complexity_budget():
    cost = complexity(PRESETS["tiny"])
    assert cost.parameters <= 3_200_000
    assert cost.encode <= 40 and cost.decode <= 40


@pytest.mark.parametrize("preset", ["paper", "base"])
def test_complexity_is_at_most_elics(preset):
    assert complexity(PRESETS[preset]).total <= 574


def test_complexity_equals_pytorchs_count_plus_the_taps():
    model = DKIC(PRESETS["tiny"])
    taps = []
    for block in model.modules():
        if isinstance(block, LDCNBlock):  # each tap blends 4 corners for every channel of every pixel
            block.register_forward_hook(lambda block, _, y: taps.append(9 * 4 * y.numel()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2
    cost = complexity(PRESETS["tiny"])
    assert cost.total == pytest.approx((convolutions + sum(taps)) / 64**2 / 1000)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert max(cost.encode, cost.decode) < cost.total < cost.encode + cost.decode
