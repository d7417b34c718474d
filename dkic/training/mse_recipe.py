"""The recipe whose only distortion is MSE."""

import math
from typing import Any

from dkic.errors import DkicError
from dkic.models import PRESETS, VariableRateConfig
from dkic.training.recipe import Recipe

# Divisor of the rate weight during warm-up. At the full weight from the first step, the latent does not learn to code all color
# dimensions: at lambda 0.0067, one photograph remained at 21.0 dB instead of 29.3 dB.
WARMUP_FACTOR = 8
# Options of `dkic train` by key of the recipe.
_OPTIONS = {
    "preset": "--preset",
    "batch": "--batch",
    "crop": "--crop",
    "seed": "--seed",
    "learning_rate.peak": "--lr",
}


def mse_recipe(
    preset: str,
    *,
    lambda_: float,
    steps: int,
    batch: int = 8,
    crop: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    warmup_steps: int = 0,
) -> Recipe:
    """Returns a recipe for loss = bpp + lambda * 255^2 * MSE (values in [0, 1]), as in CompressAI.

    Args:
        preset, batch, crop, seed: see `Recipe`.
        lambda_: weight of the distortion.
        steps: number of optimizer steps.
        learning_rate: peak learning rate; see `CosineSchedule`.
        warmup_steps: length of the first stage, in which the weight of the rate is divided by `WARMUP_FACTOR`.

    Raises:
        DkicError: a value is invalid; the message names the option of `dkic train`.
    """
    if isinstance(PRESETS.get(preset), VariableRateConfig):
        raise DkicError(f"--preset: {preset} is a variable-rate model, which is trained by a recipe; give --config")
    if not (lambda_ > 0 and math.isfinite(lambda_)):
        raise DkicError(f"--lambda: must be above 0, not {lambda_}")
    if steps < 1:
        raise DkicError(f"--steps: must be at least 1, not {steps}")
    if warmup_steps < 0:
        raise DkicError(f"--warmup-steps: must be at least 0, not {warmup_steps}")
    warmup = min(warmup_steps, steps)
    lengths = (warmup, 1 / WARMUP_FACTOR), (steps - warmup, 1.0)
    values = {
        "preset": preset,
        "batch": batch,
        "crop": crop,
        "seed": seed,
        "epoch_steps": 1,
        "weights": {"mse": lambda_, "lpips": 0, "gan": 0},
        "rate": {"weight": 1},
        "learning_rate": {"peak": learning_rate},
        "stages": [{"epochs": n, "lambda_factor": factor} for n, factor in lengths if n],
    }
    return Recipe.of(values, _OPTIONS)


def mse_arguments(recipe: Recipe) -> dict[str, Any] | None:
    """Returns the arguments with which `mse_recipe` returns `recipe`; None if there are none."""
    steps = sum(stage.epochs for stage in recipe.stages)
    warmup_steps = recipe.stages[0].epochs if recipe.stages[0].lambda_factor < 1 else 0
    found = {name: getattr(recipe, name) for name in ("preset", "batch", "crop", "seed")}
    found |= {"lambda_": recipe.weights.mse, "learning_rate": recipe.learning_rate.peak}
    found |= {"steps": steps, "warmup_steps": warmup_steps}
    if isinstance(recipe.weights.mse, list) or recipe.weights.mse == 0 or recipe.learning_rate.peak is None:
        return None
    if isinstance(PRESETS[recipe.preset], VariableRateConfig) or mse_recipe(**found) != recipe:
        return None
    return found
