"""Training runs in a folder, with checkpoints, a log and the final weights."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dkic.errors import DkicError
from dkic.hub import find_weights
from dkic.models.codec_network import CodecNetwork
from dkic.models.trainable import trainable
from dkic.models.weights_file import load_weights, save_weights
from dkic.output_file import reason
from dkic.training.batches import default_workers
from dkic.training.checkpoint import CHECKPOINT, WARMED_UP, begin_second_stage, load_checkpoint, restore, save_checkpoint
from dkic.training.device import DeviceName
from dkic.training.log import Log
from dkic.training.loop import ShowStep, show_nothing, steps_of
from dkic.training.photos import PhotoFolder
from dkic.training.processes import accelerator_for, leave, made_once
from dkic.training.recipe import Recipe
from dkic.training.run import TrainingFailed
from dkic.training.staged_run import StagedRun

SAVE_EVERY = 200  # steps


def train_folder(
    folders: Path | Sequence[Path],
    recipe: Recipe,
    out: Path,
    *,
    quality: int = 1,
    resume: bool = False,
    minutes: float | None = None,
    start_from: str | Path | None = None,
    lpips_backbone: Path | None = None,
    device: DeviceName | None = None,
    workers: int | None = None,
    save_every: int = SAVE_EVERY,
    log: Callable[[str], None] = lambda line: None,
    show: ShowStep = show_nothing,
) -> Path:
    """Trains with a recipe until the last step, the time limit or Ctrl-C.

    Args:
        folders: folders of photographs; see `PhotoFolder`.
        recipe: the recipe; of a resumed run, the one in its checkpoint.
        out: folder of the run. It receives checkpoint.pt (every `save_every` steps and at the end), log.csv with one line per
            step, TensorBoard's files, the weights file, and with several stages warmed_up.pt at the end of the first one.
        quality: quality of the weights file, 1 to 255.
        resume: whether to continue the run in `out`.
        minutes: time limit in minutes; None: no limit.
        start_from: warmed_up.pt of another run, to start with the second stage; or a model (see `find_weights`), to start from
            its weights of quality `quality`.
        lpips_backbone: file of the ImageNet weights of LPIPS; see `LPIPS`.
        device: see `device_for`.
        workers: worker processes that decode photographs; None: see `default_workers`.
        save_every: steps between checkpoints.
        log: called with each line of the report.
        show: called after each step; see `ShowStep`.

    Returns:
        Path of the weights file in `out`.

    Raises:
        DkicError: the run can't start.
        TrainingFailed: the run has started and can't continue.
    """
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise DkicError(f"{path}: exists; add --resume to continue that run, or give another --out")
    if lpips_backbone and recipe.weights.lpips == 0:
        raise DkicError("--lpips-backbone: the recipe has no weight for LPIPS; leave the option out")
    beginning = _beginning(start_from, quality) if start_from and not resume else None
    accelerator = accelerator_for(device, any(stage.freeze for stage in recipe.stages))

    def list_photos() -> PhotoFolder:
        return PhotoFolder(folders, recipe.crop, imagenet_photos=recipe.imagenet_photos, least_scale=recipe.least_scale)

    photos = made_once(accelerator, list_photos)
    if accelerator.is_main_process:
        _report(photos, log)
    workers = default_workers(accelerator.device) if workers is None else workers
    run = StagedRun(recipe, photos, accelerator, lpips_backbone, workers=workers, warn=log)
    if resume:
        restore(run, load_checkpoint(path))
    elif isinstance(beginning, CodecNetwork):
        run.start_with(beginning)
    elif beginning:
        begin_second_stage(run, beginning)
    name = recipe.preset if run.model.variable_rate else f"{recipe.preset}-q{quality}"
    weights = out / f"{name}.safetensors"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{out}: can't be written ({reason(error)})") from error
    try:
        run_steps(run, out, minutes, save_every, show)
        if run.leads:
            save_weights(weights, run.trained(), quality, run.about())
    except OSError as error:
        raise TrainingFailed(f"{out}: can't be written ({reason(error)})") from error
    except DkicError as error:
        raise TrainingFailed(str(error)) from error
    leave()
    return weights


def run_steps(
    run: StagedRun, out: Path, minutes: float | None = None, save_every: int = SAVE_EVERY, show: ShowStep = show_nothing
) -> None:
    """Runs the remaining steps and writes checkpoints and a log (see `log.Log`) into `out`.

    Args:
        run: the run.
        out: existing folder.
        minutes: time limit in minutes; None: no limit.
        save_every: steps between checkpoints; there is one at the start and one at the end, too.
        show: called after each step; see `ShowStep`.

    Raises:
        TrainingFailed: a loss or gradient is not finite; checkpoint.pt is the state before that step.
        DkicError: the crops of a step can't be read.
        OSError: a file can't be written.
    """
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    several_stages = len(run.schedule.ends) > 1

    def save(name: str) -> None:
        if run.leads:
            save_checkpoint(run, out / name)

    with _ctrl_c() as stopped, Log(out, run.step) if run.leads else contextlib.nullcontext() as log:
        save(CHECKPOINT)
        try:
            for result in steps_of(run, lambda: time.monotonic() >= end or stopped.is_set(), show):
                if log:
                    log.write(result)
                if several_stages and run.step == run.schedule.ends[0]:
                    save(WARMED_UP)
                if run.step % save_every == 0:
                    save(CHECKPOINT)
                    if log and (image := run.examples()) is not None:
                        log.image(image, run.step)
        except TrainingFailed as error:  # raised before a weight is changed
            save(CHECKPOINT)
            raise TrainingFailed(f"{error} ({out / CHECKPOINT} is the state before that step)") from error
        except DkicError:
            save(CHECKPOINT)
            raise
        save(CHECKPOINT)


def _beginning(start_from: str | Path, quality: int) -> CodecNetwork | dict[str, Any]:
    """The model, or the contents of the checkpoint, that a run starts from."""
    if Path(start_from).suffix == ".pt":
        return load_checkpoint(Path(start_from))
    there = [load_weights(path) for path in find_weights(start_from)]
    found = there if len(there) == 1 else [weights for weights in there if weights.quality == quality]
    if not found:
        have = ", ".join(str(weights.quality) for weights in there)
        raise DkicError(f"--start-from {start_from}: it has the qualities {have}; choose one of them with --quality")
    return trainable(found[0])


def _report(photos: PhotoFolder, log: Callable[[str], None]) -> None:
    skipped = {"too small": photos.too_small, "unreadable": len(photos.broken), "not images": photos.others}
    log(f"{len(photos)} photographs; skipped: " + ", ".join(f"{n} {why}" for why, n in skipped.items()))
    for path in photos.broken:
        log(f"{path}: not an image that can be read, so it is skipped")


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Context manager with an event that Ctrl-C sets, so that the current step is finished."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
