"""A run: steps with a log and checkpoints, until they are done, time is over or Ctrl-C comes."""

import contextlib
import io
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dkic.errors import DkicError
from dkic.models import DKIC, PRESETS
from dkic.models.config import ModelConfig
from dkic.models.dkic import TrainingOutput
from dkic.output_file import write_atomically
from dkic.training.photos import PhotoFolder

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 200  # steps


class TrainingFailed(DkicError):
    """A run that had begun can't go on: a loss that is not finite, a full disk."""


@dataclass(frozen=True)
class StepResult:
    """One step's figures, over its batch: loss, rate in bits per pixel, PSNR in dB."""

    step: int
    loss: float
    bpp: float
    psnr: float

    def __str__(self) -> str:
        return f"bpp {self.bpp:.3f}, PSNR {self.psnr:.2f} dB"


class Run(ABC):
    """Model and step counter of a run, and its checkpoints.

    Everything random is drawn from (seed, step), so a checkpoint needs no generator state: resuming continues exactly.

    Args:
        settings: TrainSettings or a Recipe.
        photos: where crops come from.

    A checkpoint keeps the states of `parts`, to which subclasses add theirs. `steps` is the run's length; after those in
    `milestones` a checkpoint is left under a name of its own.
    """

    kind: str  # the checkpoint's key for the settings
    advice: str  # what to lower where a loss is not finite
    result_type: type[StepResult] = StepResult
    steps: int
    milestones: Mapping[int, str] = MappingProxyType({})

    def __init__(self, settings: Any, photos: PhotoFolder) -> None:
        self.settings, self.photos, self.step = settings, photos, 0
        torch.manual_seed(settings.seed)
        self.config: ModelConfig = PRESETS[settings.preset]
        self.model = DKIC(self.config).to(memory_format=torch.channels_last)
        self.parts: dict[str, Any] = {"model": self.model}

    @abstractmethod
    def train_step(self) -> StepResult:
        """One step. A loss or gradient that is not finite raises TrainingFailed before a weight is changed."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Facts of the run, for the weights file."""

    def batch(self) -> tuple[Tensor, TrainingOutput]:
        """The step's crops `[N, 3, crop, crop]`, and what the model makes of them."""
        x = self.photos.batch(self.settings.batch, self.settings.seed, self.step)
        return x, self.model(x, torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step))

    def gradients(self, loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Gradients of a loss for a module, clipped."""
        check_finite("loss", loss, self.step, self.advice)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip_norm)
        check_finite("gradient", norm, self.step, self.advice)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            self.kind: self.settings.to_dict(),
            "config": self.config.to_dict(),
            "photos": self.photos.fingerprint,
            "step": self.step,
        }
        content = io.BytesIO()  # into a file, torch.save would tell a full disk by a RuntimeError
        torch.save(state | {name: part.state_dict() for name, part in self.parts.items()}, content)
        write_atomically(path, content.getvalue(), force=True)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's contents (see load_checkpoint)."""
        if state["photos"] != self.photos.fingerprint:
            other = "the folder holds other photographs than those that the run began with"
            raise DkicError(f"{other}, so it can't continue exactly")
        self.restore_parts(state, *self.parts)
        self.step = state["step"]

    def restore_parts(self, state: Mapping[str, Any], *names: str) -> None:
        """The states of these parts alone."""
        try:
            if state["config"] != self.config.to_dict():
                raise ValueError("another shape")
            for name in names:
                self.parts[name].load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            preset = self.settings.preset
            raise DkicError(f"the checkpoint does not fit {preset} as this version of dkic has it") from error


def run_steps(run: Run, out: Path, minutes: float | None) -> None:
    """Do the steps that are left, at most for `minutes`.

    `out` gets checkpoint.pt, every 200 steps and at the end, and log.csv with a line per step.
    """
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    shown: StepResult | None = None
    names = [field.name for field in fields(run.result_type)]
    with (
        _ctrl_c() as stopped,
        _log_after(out / "log.csv", names, run.step) as csv,
        tqdm(total=run.steps, initial=run.step, unit="step", mininterval=1) as progress,
    ):
        try:
            while run.step < run.steps and time.monotonic() < end and not stopped.is_set():
                result = run.train_step()
                csv.write(f"{result.step}," + ",".join(f"{getattr(result, name):.6g}" for name in names[1:]) + "\n")
                shown = result if shown is None else _running_mean(shown, result)
                progress.update()
                progress.set_postfix_str(str(shown))
                if name := run.milestones.get(run.step):
                    run.save(out / name)
                if run.step % SAVE_EVERY == 0:
                    run.save(out / CHECKPOINT)
        finally:
            run.save(out / CHECKPOINT)


def check_finite(what: str, value: Tensor, step: int, advice: str) -> None:
    """TrainingFailed where a loss or the norm of a gradient is not finite."""
    if not math.isfinite(value.item()):
        raise TrainingFailed(f"the {what} became {value.item()} at step {step}; train anew with a lower {advice}")


def psnr_of(mse: Tensor) -> float:
    """PSNR in dB of values in [0, 1]."""
    return -10 * math.log10(max(mse.item(), 1e-10))


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that a step is never cut in the middle."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _log_after(path: Path, names: list[str], step: int) -> Iterator[Any]:
    """The log, open for more, without the lines of steps that were done after the checkpoint and then lost."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() else []
    with open(path, "w", encoding="utf-8", buffering=1) as csv:
        csv.writelines(lines or [",".join(names) + "\n"])
        yield csv


def _running_mean(mean: StepResult, new: StepResult, keep: float = 0.98) -> StepResult:
    """Of every figure but the step; what was not measured before (NaN) begins anew."""
    values = asdict(new)
    for name, before in asdict(mean).items():
        if name != "step" and not math.isnan(before):
            values[name] = keep * before + (1 - keep) * values[name]
    return replace(new, **values)
