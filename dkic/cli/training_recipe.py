"""The recipe of `dkic train`: from a file, from options, or from the checkpoint of the run that is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dkic.errors import DkicError
from dkic.training.checkpoint import CHECKPOINT, recipe_in
from dkic.training.mse_recipe import mse_arguments, mse_recipe
from dkic.training.recipe import Recipe
from dkic.training.recipe_file import read_recipe

_NAMES = {"lambda_": "--lambda", "learning_rate": "--lr", "warmup_steps": "--warmup-steps"}


def recipe_of(out: Path, config: Path | None, options: Mapping[str, Any], given: Mapping[str, Any], resume: bool) -> Recipe:
    """The recipe of a new run, or of the one in `out` that is resumed.

    Args:
        config: the file that --config names.
        options: arguments of `mse_recipe`, for a new run without --config.
        given: those of them that were given. With --config there may be none; in a resumed run only `steps` may change.

    Raises:
        DkicError: options that do not go together, or that can't be.
    """
    if config is not None and given:
        raise DkicError(f"{_option(min(given))}: can't be given with --config; set it in {config}")
    recipe = None if config is None else read_recipe(config)
    if not resume:
        return recipe or mse_recipe(**options)
    kept = recipe_in(out / CHECKPOINT)
    if recipe not in (None, kept):
        raise DkicError(f"--config {config}: is not the recipe of the run in {out}; leave --config out to resume that run")
    if not given:
        return kept
    arguments = mse_arguments(kept)
    if arguments is None:
        raise DkicError(f"{_option(min(given))}: the run in {out} has another recipe, and keeps it; leave the option out")
    for name, value in given.items():
        if name != "steps" and value != arguments[name]:
            raise DkicError(f"{_option(name)}: must be {arguments[name]}, as in the run in {out} that is resumed")
    return mse_recipe(**arguments | {"steps": given.get("steps", arguments["steps"])})


def _option(name: str) -> str:
    return _NAMES.get(name, f"--{name}")
