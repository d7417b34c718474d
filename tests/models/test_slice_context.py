"""The context model: the order of its passes, and their dependencies."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dkic.models import PRESETS, SliceSpec
from dkic.models.slice_context import PASSES, SliceContext, join_cells, take_cells

CONFIG = replace(
    PRESETS["tiny"],
    slices=(SliceSpec(2, 4), SliceSpec(3, 2), SliceSpec(2, 4), SliceSpec(4, 1), SliceSpec(3, 1)),
    hyper_features=6,
    context_channels=8,
)
H, W = 6, 10


def traverse(context: SliceContext, hyper: Tensor, y: Tensor) -> tuple[Tensor, list[tuple]]:
    """y_hat where the coded values are those of y, and (channels, cells, mean, scale index) of every pass."""
    seen, passes = [], context.coding_passes(hyper)
    for part in passes:
        seen.append((part.channels, part.cells, part.mean, part.scale_index))
        part.y_hat = take_cells(y[:, part.channels], part.cells)
    return passes.y_hat, seen


def test_a_pass_without_y_hat_is_an_error(setting):
    context, hyper, _ = setting
    with pytest.raises(RuntimeError, match="y_hat of a pass is not set"):
        list(context.coding_passes(hyper))


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    context = SliceContext(CONFIG).double().requires_grad_(False)
    hyper = torch.randn(2, CONFIG.hyper_features, H, W, dtype=torch.float64)
    return context, hyper, torch.randn(2, CONFIG.latent_channels, H, W, dtype=torch.float64)


@pytest.mark.parametrize("passes", PASSES)
def test_the_passes_cover_every_cell_once(passes):
    assert len(PASSES[passes]) == passes
    cells = [cell for cells in PASSES[passes] for cell in cells]
    assert sorted(cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("passes", PASSES)
def test_join_cells_is_the_inverse_of_take_cells(passes):
    t = torch.arange(2 * 3 * H * W).view(2, 3, H, W)
    parts = {}
    for cells in PASSES[passes]:
        taken = take_cells(t, cells)
        assert taken.shape == (2, 3, len(cells) * H // 2, W // 2)
        parts.update(zip(cells, taken.chunk(len(cells), dim=2), strict=True))
    assert torch.equal(join_cells(parts), t)
    assert torch.equal(parts[1, 0], t[:, :, 1::2, 0::2])


def test_every_position_is_coded_once_in_the_slices_order(setting):
    context, hyper, y = setting
    y_hat, seen = traverse(context, hyper, y)
    assert torch.equal(y_hat, y)
    assert len(seen) == sum(spec.passes for spec in CONFIG.slices)
    visits = torch.zeros(CONFIG.latent_channels, H, W)
    for channels, cells, mean, scale_index in seen:
        assert mean.shape == scale_index.shape == take_cells(y[:, channels], cells).shape
        for i, j in cells:
            visits[channels, i::2, j::2] += 1
    assert (visits == 1).all()
    starts = [channels.start for channels, *_ in seen]
    assert starts == sorted(starts)


def test_a_pass_depends_only_on_earlier_passes(setting):
    """A change of all symbols of one pass leaves this and all earlier passes unchanged, bit for bit."""
    context, hyper, y = setting
    before = traverse(context, hyper, y)[1]
    for n, (channels, cells, *_) in enumerate(before):
        changed = y.clone()
        for i, j in cells:
            changed[:, channels, i::2, j::2] += torch.randn_like(changed[:, channels, i::2, j::2])
        after = traverse(context, hyper, changed)[1]
        same = [torch.equal(a[2], b[2]) and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True)]
        assert all(same[: n + 1]), f"pass {n} changed one before it"
        assert not any(same[n + 1 :]), f"a pass after {n} knows nothing of it"


def test_every_pass_depends_on_the_initial_features(setting):
    context, hyper, y = setting
    before, after = (traverse(context, h, y)[1] for h in (hyper, hyper + 1))
    assert not any(torch.equal(a[2], b[2]) or torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def test_a_pass_does_not_depend_on_distant_positions(setting):
    """The 5x5 convolution is centered on each position: a change at one position affects only its neighborhood."""
    context, _, _ = setting
    hyper = torch.zeros(1, CONFIG.hyper_features, 16, 16, dtype=torch.float64)
    y = torch.zeros(1, CONFIG.latent_channels, 16, 16, dtype=torch.float64)
    changed = y.clone()
    changed[:, :2, 8, 8] = 5  # in the first slice's first pass, which codes the cell (0, 0)
    (before, after) = (traverse(context, hyper, latent)[1][1] for latent in (y, changed))
    moved = (before[2] != after[2]).any(1)[0].nonzero().tolist()  # of the cell (1, 1): positions 2i + 1, 2j + 1
    assert moved == [[i, j] for i in (3, 4) for j in (3, 4)]
