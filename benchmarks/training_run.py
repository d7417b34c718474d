"""The training step that is timed and profiled: the tiny recipe's, on the shipped photograph."""

from collections.abc import Callable
from pathlib import Path

import torch
from whole_codecs import draw_offsets

from dkic.demo import PHOTO
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe
from dkic.training.staged_run import StagedRun
from dkic.training.step_result import StepResult

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "tiny_03.toml"


def staged_run(gan: bool, device: str | None = None, compiled: bool = False) -> StagedRun:
    """At the first step of the first stage, or of the second, which has the discriminator; offsets are drawn."""
    recipe = Recipe.of(read_recipe(RECIPE).to_dict() | {"compile": compiled})
    run = StagedRun(recipe, PhotoFolder(PHOTO.parent, recipe.crop), accelerator_for(device))
    torch.manual_seed(recipe.seed)
    draw_offsets(run.model)
    if gan:
        run.step = recipe.stages[0].epochs * recipe.epoch_steps
    assert run.stage.gan == gan
    return run


def step_of(run: StagedRun) -> Callable[[], StepResult]:
    """A call that runs the same step again except for the weights: with fixed crops, in the current stage of the run."""
    crops, step = run.micro_batches(), run.step
    run.micro_batches = lambda: crops  # type: ignore[method-assign]

    def call() -> StepResult:
        run.step = step
        return run.train_step()

    return call
