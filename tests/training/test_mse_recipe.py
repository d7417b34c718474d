"""Training for rate and MSE: loss, warmup, noise, and invalid options."""

import math

import numpy as np
import pytest
import torch
from training.recipes import LAMBDA, mse

from dkic.errors import DkicError
from dkic.training.mse_recipe import WARMUP_FACTOR, mse_arguments, mse_recipe
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun
from dkic.training.step_result import StepResult


def begin(folder, recipe: Recipe) -> StagedRun:
    return StagedRun(recipe, PhotoFolder(folder, recipe.crop), accelerator_for("cpu"))


def loss(result: StepResult, rate_weight: float = 1) -> float:
    """rate_weight * bpp + lambda * 255^2 * MSE, where PSNR = -10 log10 MSE."""
    return pytest.approx(rate_weight * result.bpp + LAMBDA * 255**2 * 10 ** (-result.psnr / 10), rel=1e-4)


def test_twenty_steps_lower_the_loss(folder):
    run = begin(folder, mse(steps=1000))
    results = [run.train_step() for _ in range(20)]
    assert [result.step for result in results] == list(range(1, 21))
    assert np.mean([r.loss for r in results[-4:]]) < 0.6 * np.mean([r.loss for r in results[:2]])
    assert all(result.loss == loss(result) for result in results)


def test_the_weight_of_the_rate_is_lower_in_the_first_steps(folder):
    assert WARMUP_FACTOR == 8
    run = begin(folder, mse(steps=4, batch=1, warmup_steps=2))
    results = [run.train_step() for _ in range(4)]
    assert [result.rate_weight for result in results] == [1 / 8, 1 / 8, 1, 1]
    assert all(result.loss == loss(result, result.rate_weight) for result in results)


def test_no_other_network_is_loaded(folder):
    """Neither LPIPS nor DISTS nor a discriminator."""
    run = begin(folder, mse())
    assert len(run.distances.networks) == 0 and run.adversary is None
    assert set(run.parts) == {"model", "optimizer"}


@pytest.mark.parametrize("warmup_steps", [0, 2, 6])
def test_arguments_are_recovered_from_the_recipe(warmup_steps):
    recipe = mse(warmup_steps=warmup_steps, seed=3, learning_rate=2e-3)
    arguments = mse_arguments(recipe)
    assert (arguments["lambda_"], arguments["steps"], arguments["warmup_steps"]) == (LAMBDA, 6, warmup_steps)
    assert mse_recipe(**arguments) == recipe


@pytest.mark.parametrize(
    "changed",
    [
        {"ema": 0.9},
        {"weights": {"mse": 0.01, "lpips": 1, "gan": 0}},
        {"weights": {"mse": 0, "lpips": 1, "gan": 0}},
        {"learning_rate": {"values": [1e-3], "epochs": []}},
        {"preset": "small", "rate": {"weight": [3, 0.3]}, "weights": {"mse": [0.1, 1], "lpips": 0, "gan": 0}},
    ],
)
def test_another_recipe_has_no_such_arguments(changed):
    assert mse_arguments(Recipe.of(mse().to_dict() | changed)) is None


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"preset": "huge"}, "--preset"),
        ({"preset": "small"}, "--preset"),
        ({"crop": 100}, "--crop"),
        ({"crop": 0}, "--crop"),
        ({"lambda_": 0.0}, "--lambda"),
        ({"lambda_": math.nan}, "--lambda"),
        ({"steps": 0}, "--steps"),
        ({"batch": 0}, "--batch"),
        ({"learning_rate": -1.0}, "--lr"),
        ({"seed": -1}, "--seed"),
        ({"warmup_steps": -1}, "--warmup-steps"),
    ],
)
def test_invalid_options_are_refused(wrong, option):
    with pytest.raises(DkicError, match=f"^{option}: "):
        mse_recipe(**{"preset": "tiny", "lambda_": LAMBDA, "steps": 6} | wrong)


def test_every_step_and_seed_draws_its_own_noise(folder):
    def noise(seed: int) -> list[torch.Tensor]:
        run, drawn = begin(folder, mse(steps=4, batch=1, seed=seed)), []
        for run.step in range(2):
            drawn.append(torch.rand(4, generator=run.noise(0)))
        return drawn

    first, again, other = noise(0), noise(0), noise(1)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert len({tuple(numbers.tolist()) for numbers in first + other}) == 4


def test_the_noise_changes_the_rate(folder):
    run = begin(folder, mse(steps=4, batch=1))
    (x,) = run.micro_batches()
    with torch.no_grad():
        first, again = run.forward(x), run.forward(x)
        run.step = 1
        other = run.forward(x)
    assert torch.equal(first.bits, again.bits) and not torch.equal(first.bits, other.bits)
