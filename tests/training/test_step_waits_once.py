"""A training step synchronizes the host with the device once, before the weights are updated."""

import pytest
import torch
from host_reads import NoHostReads
from lpips_weights import need_backbone
from photographs import crop
from PIL import Image
from training.recipes import GOOD, VARIABLE

from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun

RECIPES = {
    "a rate target, then a discriminator": GOOD | {"discriminator_width": 8, "ema": 0.9},
    "variable rate, several perceptual metrics": VARIABLE
    | {
        "weights": VARIABLE["weights"] | {"dists": 1.0, "lpips_vgg": 0.5, "color": 1.0, "ms_ssim": 1.0},
        "crop": 128,
        "discriminator_width": 8,
        "precision": "bfloat16",
    },
    "micro-batches": GOOD | {"accumulation": 2, "stages": [{"epochs": 2}]},
}


@pytest.mark.parametrize("values", RECIPES.values(), ids=RECIPES)
def test_a_step_synchronizes_once(values, tmp_path, monkeypatch):
    need_backbone("alex")
    if values["weights"].get("dists"):
        need_backbone("vgg")
    stages = [stage | {"epochs": 1} for stage in values["stages"]]
    recipe = Recipe.of(values | {"epoch_steps": 1, "learning_rate": {"values": [1e-3], "epochs": []}, "stages": stages})
    Image.fromarray(crop(160, 160)).save(tmp_path / "photograph.png")
    run = StagedRun(recipe, PhotoFolder(tmp_path, recipe.crop), accelerator_for("cpu"))
    reads, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: [reads.append(run.step), tolist(t)][1])
    before = [p.detach().clone() for p in run.model.parameters()]
    micro_batches = run.micro_batches
    for _ in range(run.steps):
        crops = micro_batches()  # outside NoHostReads, since loading reads CPU tensors
        run.micro_batches = lambda crops=crops: crops
        with NoHostReads():
            run.train_step()
            assert not run.any_process(False)
    assert reads == list(range(run.steps)) and len(reads) == len(stages)
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
