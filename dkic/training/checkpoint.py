"""Checkpoints: the complete state of a run, from which it is resumed exactly."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dkic.errors import DkicError
from dkic.output_file import write_atomically
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun

CHECKPOINT = "checkpoint.pt"
# Written at the end of the first of several stages; runs at other rates can start from it.
WARMED_UP = "warmed_up.pt"


def save_checkpoint(run: StagedRun, path: Path) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: the file can't be written.
    """
    state = {
        "recipe": run.recipe.to_dict(),
        "config": run.config.to_dict(),
        "photos": run.photos.fingerprint,
        "step": run.step,
    }
    content = io.BytesIO()  # on a full disk, torch.save to a file raises RuntimeError instead of OSError
    torch.save(state | {name: part.state_dict() for name, part in run.parts.items()}, content)
    write_atomically(path, content.getvalue(), force=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads the contents of a checkpoint.

    Raises:
        DkicError: the file does not exist or is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"recipe", "config", "photos", "step", "model", "optimizer"} <= set(state):
            raise ValueError("other contents")
    except FileNotFoundError:
        raise DkicError(f"{path}: there is no checkpoint to continue from; leave --resume out") from None
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DkicError(f"{path}: not a dkic training checkpoint ({type(error).__name__})") from error
    return state


def recipe_in(path: Path) -> Recipe:
    """Reads the recipe of the run that wrote a checkpoint.

    Raises:
        DkicError: see `load_checkpoint`; or the recipe in it is invalid.
    """
    try:
        return Recipe.of(load_checkpoint(path)["recipe"])
    except DkicError as error:
        text = str(error)
        raise DkicError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def restore(run: StagedRun, state: Mapping[str, Any]) -> None:
    """Restores a run from the contents of a checkpoint (see `load_checkpoint`).

    Raises:
        DkicError: the photographs differ from those of the checkpoint, or its model does not fit the run.
    """
    if state["photos"] != run.photos.fingerprint:
        raise DkicError("photographs: must be those that the run began with, so that it continues exactly")
    _restore_parts(run, state, *run.parts)
    run.step = state["step"]


def begin_second_stage(run: StagedRun, state: Mapping[str, Any]) -> None:
    """Starts a run at its second stage from the model and optimizer of another run after its first stage.

    Args:
        run: new run.
        state: contents of the other run's `WARMED_UP` checkpoint.

    Raises:
        DkicError: the recipe has one stage, or the checkpoint's model does not fit the run.
    """
    if len(run.recipe.stages) < 2:
        raise DkicError("recipe: needs a second stage, to start from another run's first stage")
    _restore_parts(run, state, "model", "optimizer", *(["muon"] if run.muon else []))
    if run.average and "average" in state:
        _restore_parts(run, state, "average")
    elif run.average:
        run.average.load_state_dict(run.model.state_dict())
    run.step = run.schedule.ends[0]


def _restore_parts(run: StagedRun, state: Mapping[str, Any], *names: str) -> None:
    try:
        if state["config"] != run.config.to_dict():
            raise ValueError("another architecture")
        for name in names:
            run.parts[name].load_state_dict(state[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise DkicError(f"checkpoint: must be of {run.recipe.preset} as this version of dkic has it") from error
