"""One of the two processes of test_processes, started by torchrun: steps on its half of the crops.

torchrun --nproc-per-node 2 one_of_two_processes.py FOLDER OUT
"""

import sys
from pathlib import Path
from typing import Any

import torch

from dkic.errors import DkicError
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for, leave, made_once
from dkic.training.recipe import Recipe
from dkic.training.staged_run import StagedRun

# Two steps without and one with a discriminator, one that trains only the decoder; gradients are not clipped.
RECIPE = {
    "preset": "tiny",
    "batch": 4,
    "crop": 64,
    "epoch_steps": 1,
    "discriminator_width": 8,
    "weights": {"mse": 0.002, "lpips": 1.0, "gan": 0.15},
    "rate": {"target": 0.15, "lambda_alpha": 2.0, "lambda_beta": 0.0625},
    "learning_rate": {"values": [1e-3], "epochs": []},
    "stages": [{"epochs": 2}, {"epochs": 1, "gan": True}, {"epochs": 1, "gan": True, "freeze": True}],
    "clip_norm": 1e9,
}
STEPS = (0, 2, 3)


def step_of(run: StagedRun, step: int) -> dict[str, Any]:
    """Runs one step; returns its result and gradients."""
    run.step = step
    result = run.train_step()
    modules = {name: run.parts[name] for name in ("model", "discriminator")}
    named = [(f"{m}.{name}", p.grad) for m, module in modules.items() for name, p in module.named_parameters()]
    return {"result": result, "gradients": {name: g.clone() for name, g in named if g is not None}}


def begin(folder: str, accelerator, **values: Any) -> StagedRun:
    return StagedRun(Recipe.of(RECIPE | values), PhotoFolder(folder, 64), accelerator)


def refused(accelerator, folder: str, **values: Any) -> str:
    try:
        made_once(accelerator, lambda: begin(folder, accelerator, **values))
    except DkicError as error:
        return str(error)
    return "not refused"


def main(folder: str, out: str) -> None:
    torch.set_num_threads(1)
    accelerator = accelerator_for("cpu", freezes=True)
    # Each step starts from the initial weights.
    found: dict[str, Any] = {str(step): step_of(begin(folder, accelerator), step) for step in STEPS}
    found["nowhere"] = refused(accelerator, folder + "/nowhere")
    found["batch"] = refused(accelerator, folder, batch=3)
    torch.save(found, Path(out) / f"{accelerator.process_index}.pt")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
