"""Vectors that depend on the quality, in their float and quantized states."""

import math

import numpy as np
import pytest
import torch

from dkic.entropy.quantization import INDEX_LOG_STEP, MAX_QUALITY, PARTS
from dkic.errors import DkicError
from dkic.models.quality_table import QualityFeatures, QualityScale, QualityTable, QuantizerTable
from dkic.quantized import convert, converted_state, load


def test_a_table_is_linear_between_its_points():
    table = QualityTable(2, 4)
    with torch.no_grad():
        table.points.copy_(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    qualities = torch.tensor([1, 17.5, 34, 50, 67.25, 100])
    points = np.linspace(1, MAX_QUALITY, 4)
    for channel in range(2):
        expected = np.interp(qualities, points, table.points[:, channel].detach())
        assert torch.allclose(table(qualities)[:, channel], torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_qualities_beyond_the_range_are_clamped():
    table = QualityTable(1, 2, torch.tensor([3.0, 5.0]))
    assert table(torch.tensor([-7.0, 0.0, 1.0, 100.0, 101.0])).flatten().tolist() == [3, 3, 3, 5, 5]


def test_every_point_gets_a_gradient():
    table = QualityTable(2, 5)
    table(torch.linspace(1, 100, 9)).sum().backward()
    assert (table.points.grad > 0).all()


def test_a_scale_is_initially_the_identity_and_depends_on_each_images_quality():
    scale = QualityScale(3, 2)
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(scale(x, torch.tensor([1.0, 100.0])), x)
    with torch.no_grad():
        scale.scale.points[1], scale.bias.points[1] = 2, 1
    y = scale(x, torch.tensor([1.0, 100.0]))
    assert torch.equal(y[0], x[0]) and torch.allclose(y[1], 2 * x[1] + 1)


def quantizer_table(seed: int = 0) -> QuantizerTable:
    table = QuantizerTable(6, 4)
    with torch.no_grad():
        table.points.add_(0.3 * torch.randn(table.points.shape, generator=torch.Generator().manual_seed(seed)))
    return table


def all_places() -> torch.Tensor:
    return torch.arange(PARTS, PARTS * MAX_QUALITY + 1, dtype=torch.float64) / PARTS


def test_sizes_are_multiples_of_a_64th_and_offsets_their_logarithm():
    table = quantizer_table()
    size, offset = table(all_places())
    assert size.shape == (PARTS * (MAX_QUALITY - 1) + 1, 6, 1, 1)
    assert torch.equal(size * 64, (size * 64).round()) and size.min() >= 0.5 and size.max() <= 64
    assert torch.allclose(offset * INDEX_LOG_STEP, size.log(), atol=math.log(1 + 1 / 64))


def test_sizes_stay_within_their_bounds_for_any_parameters():
    table = QuantizerTable(2, 2)
    with torch.no_grad():
        table.points.copy_(torch.tensor([[90.0, -90.0], [-90.0, 90.0]]))
    size, _ = table(torch.tensor([1.0, 100.0]))
    assert size.flatten().tolist() == [64, 0.5, 0.5, 64]
    convert(table)
    converted, _ = table(torch.tensor([1.0, 100.0]))
    assert torch.equal(converted, size)


def test_the_quantized_table_interpolates_in_integers():
    """Compared with Python integers, at every operating point."""
    table = quantizer_table()
    sizes, offsets = (t.round().long().tolist() for t in table.integers().values())
    convert(table)
    size, offset = table(all_places())
    for row, place in enumerate(range(PARTS, PARTS * MAX_QUALITY + 1)):
        quality, part = divmod(place, PARTS)
        if quality == MAX_QUALITY:
            quality, part = quality - 1, PARTS
        for found, integers in ((size[row] * 64, sizes), (offset[row], offsets)):
            low, high = integers[quality - 1], integers[quality]
            expected = [(a * (PARTS - part) + b * part + PARTS // 2) // PARTS for a, b in zip(low, high, strict=True)]
            assert found.flatten().tolist() == expected


def test_the_quantized_table_is_near_the_float_state():
    table, features = quantizer_table(), QualityFeatures(4, 3)
    qualities = torch.linspace(1, 100, 23)
    before, seen = table(qualities), features(qualities)
    convert(table)
    convert(features)
    assert "points" not in dict(table.named_parameters())
    after = table(qualities)
    assert (after.size / before.size - 1).abs().max() < 0.05 and (after.offset - before.offset).abs().max() <= 1
    assert (features((qualities * PARTS).round() / PARTS) / 64 - seen).abs().max() < 0.03


@pytest.mark.parametrize(("name", "value"), [("sizes", 31), ("sizes", 64 * 64 + 1), ("offsets", 64), ("offsets", -64)])
def test_numbers_outside_their_bounds_are_refused(name, value):
    table = QuantizerTable(3, 2)
    convert(table)
    state = table.state_dict()
    state[name][7, 1] = value
    with pytest.raises(DkicError, match=f"{name}: must be from"):
        load(QuantizerTable(3, 2), state)


def test_converted_state_has_the_layout_of_convert():
    table = QuantizerTable(3, 2)
    expected = converted_state(table)
    convert(table)
    layouts = [{n: (t.shape, t.dtype) for n, t in state.items()} for state in (expected, table.state_dict())]
    assert layouts[0] == layouts[1] and set(layouts[0]) == {"sizes", "offsets"}


def test_load_gives_the_converted_table():
    converted, loaded = QuantizerTable(3, 2), QuantizerTable(3, 2)
    convert(converted)
    load(loaded, converted.state_dict())
    assert loaded.converted and all(map(torch.equal, converted(torch.linspace(1, 100, 23)), loaded(torch.linspace(1, 100, 23))))


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda state: state.pop("sizes"), "no sizes"), (lambda state: state.update(sizes=state["sizes"].float()), "float32")],
)
def test_load_refuses_another_state_dict(change, message):
    table = QuantizerTable(3, 2)
    convert(table)
    state = table.state_dict()
    change(state)
    with pytest.raises(DkicError, match=message):
        load(QuantizerTable(3, 2), state)
