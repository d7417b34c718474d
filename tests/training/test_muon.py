"""Muon for convolutions: `torch.optim.Muon` on their matrices, and its place in a run."""

import pytest
import torch
from torch import nn
from training.recipes import VARIABLE

from dkic.models import PRESETS, network_of
from dkic.training.muon import ConvMuon, matrices_of
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("n", [1, 4])
def test_a_weights_matrices_are_updated_as_by_torch(memory_format, n):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(8 * n, 5, 3, 3, generator=generator).contiguous(memory_format=memory_format))
    matrices = [nn.Parameter(weight.detach()[i::n].flatten(1).clone()) for i in range(n)]
    ours = ConvMuon([(weight, n)])
    theirs = torch.optim.Muon(matrices, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        gradient = torch.randn(weight.shape, generator=generator)
        weight.grad = gradient.clone()  # contiguous, whatever the weight is
        for i, matrix in enumerate(matrices):
            matrix.grad = gradient[i::n].flatten(1).clone()
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.step()
    expected = torch.stack(matrices, 1).reshape(weight.shape)
    # bfloat16 sums over the columns, whose order depends on the memory format
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=0 if memory_format == torch.contiguous_format else 0.01)


def test_a_weight_without_a_gradient_stays():
    weight = nn.Parameter(torch.ones(4, 4, 1, 1))
    ConvMuon([(weight, 1)]).step()
    assert torch.equal(weight, torch.ones(4, 4, 1, 1))


def test_depthwise_convolutions_and_the_entropy_networks_are_not_muons():
    model = network_of(PRESETS["small"])
    chosen = {id(weight): n for weight, n in matrices_of(model.transforms())}
    names = {name: chosen[id(p)] for name, p in model.named_parameters() if id(p) in chosen}
    assert names and all(name.startswith(("g_a.", "g_s.")) and name.endswith("weight") for name in names)
    assert not any("depthwise" in name for name in names)
    assert {name: n for name, n in names.items() if n > 1} == {"g_s.upsamplings.0.0.weight": 4}


def begin(folder) -> StagedRun:
    recipe = Recipe.of(
        VARIABLE | {"weights": {"mse": [0.001, 0.01], "lpips": 0, "gan": 0}, "stages": [{"epochs": 5}], "optimizer": "muon"}
    )
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def test_all_weights_are_trained(folder):
    run = begin(folder)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.train_step()
    moved = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name in before if name.startswith(("g_a", "g_s")) and name.endswith("weight")} <= moved
