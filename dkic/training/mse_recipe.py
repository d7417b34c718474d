"""The recipe for rate and mean squared error alone."""

import math
from typing import Any

from dkic.errors import DkicError
from dkic.models import PRESETS, VariableRateConfig
from dkic.training.recipe import Recipe

# Rate that presses from the first step leaves whole dimensions uncoded: a `tiny` run at lambda 0.0067 had no red-green axis after
# 3,800 steps (a held-out photograph of autumn leaves at 21.0 dB); 1,600 steps at 0.05 from there brought it in (29.3 dB).
WARMUP_FACTOR = 8
# Keys of the recipe by the options of `dkic train`.
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
    """A recipe for loss = bpp + lambda * 255^2 * MSE (MSE of values in [0, 1]), CompressAI's convention.

    Args:
        preset, batch, crop, seed: see Recipe.
        lambda_: weight of the distortion.
        steps: length of the run; see `CosineSchedule` for the learning rate.
        learning_rate: its peak.
        warmup_steps: first steps, a stage of their own, in which the rate weighs an eighth.

    Raises:
        DkicError: a value that can't be, named as the option of `dkic train`.
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
    """The arguments of `mse_recipe` that make a recipe; None where there are none."""
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
