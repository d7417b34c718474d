"""`compile = true`: torch.compile of all networks of a run."""

import math
from pathlib import Path

import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from training.recipes import GOOD

from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe
from dkic.training.staged_run import StagedRun

RELAY = Path(__file__).resolve().parents[2] / "configs" / "relay" / "small_perceptual.toml"
RECIPE = GOOD | {"epoch_steps": 1, "batch": 1, "discriminator_width": 8}


@pytest.fixture(scope="module", autouse=True)
def backbone():
    need_backbone("alex")


def begin(folder: Path, values: dict) -> StagedRun:
    torch._dynamo.reset()
    recipe = Recipe.of(values)
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def test_compiled_networks_give_the_same_step(folder, monkeypatch):
    monkeypatch.setattr("dkic.training.compiled.BACKEND", "aot_eager")  # traces forward and backward without code generation
    plain, compiled = begin(folder, RECIPE), begin(folder, RECIPE | {"compile": True})
    traced = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(3):  # the last with the discriminator
        expected, result = plain.train_step(), compiled.train_step()
        assert result.loss == pytest.approx(expected.loss, rel=1e-4) and result.bpp == pytest.approx(expected.bpp, rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= traced + 3  # g_a, g_s and LPIPS
    assert set(compiled.trained().state_dict()) == set(plain.trained().state_dict())


def test_all_networks_of_the_relays_recipe_compile(tmp_path, monkeypatch):
    # Networks that share code share torch.compile's limit of 8 variants, and each metric has one with and one without gradients.
    monkeypatch.setattr("dkic.training.compiled.BACKEND", "eager")
    need_backbone("vgg")
    Image.fromarray(crop(128, 130)).save(tmp_path / "a.png")
    smaller = {"batch": 2, "lpips_shifts": 4, "precision": "float32"}
    run = begin(tmp_path, read_recipe(RELAY).to_dict() | smaller | {"compile": True})
    assert all(math.isfinite(run.train_step().dists) for _ in range(2))
