"""A run: steps with a log and checkpoints, until they are done, time is over or Ctrl-C comes."""

import contextlib
import io
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dkic.errors import DkicError
from dkic.models import PRESETS, network_of
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.output_file import write_atomically
from dkic.training.batches import Batches, pixels_of
from dkic.training.log import Log, StepResult
from dkic.training.photos import PhotoFolder

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 200  # steps


class TrainingFailed(DkicError):
    """A run that had begun can't go on: a loss that is not finite, a full disk."""


class Run(ABC):
    """Model and step counter of a run, and its checkpoints.

    Everything random is drawn from (seed, step), so a checkpoint needs no generator's state: resuming continues exactly.

    Args:
        settings: TrainSettings or a Recipe.
        photos: where crops come from.
        device: what computes.
        process, processes: this one's number, and how many share a step's crops.
        micro_batches: how many parts a process takes its share of them in.
        workers: processes that decode photographs, for each that trains; 0: itself.
        tell: is given sentences about photographs that can't be read.

    A checkpoint keeps the states of `parts`, to which subclasses add theirs. `steps` is the run's length; after those in
    `milestones` a checkpoint is left under a name of its own.

    Raises:
        DkicError: a batch that can't be divided so.
    """

    kind: str  # the checkpoint's key for the settings
    advice: str  # what to lower where a loss is not finite
    result_type: type[StepResult] = StepResult
    steps: int
    milestones: Mapping[int, str] = MappingProxyType({})

    def __init__(
        self,
        settings: Any,
        photos: PhotoFolder,
        *,
        device: torch.device | str = "cpu",
        process: int = 0,
        processes: int = 1,
        micro_batches: int = 1,
        workers: int = 0,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.settings, self.photos, self.step = settings, photos, 0
        self.device, self.leads = torch.device(device), process == 0
        size, left = divmod(settings.batch, processes * micro_batches)
        if left:
            shares = f"{processes} processes with {micro_batches} micro-batches each"
            raise DkicError(f"batch: {settings.batch} crops can't be divided among {shares}")
        # Part by part, so that n processes' crops and noise are those of one process with n times the micro-batches.
        self._parts = [part * processes + process for part in range(micro_batches)]
        crops = [range(part * size, (part + 1) * size) for part in self._parts]
        self.batches = Batches(photos, settings.seed, crops, workers, self.device.type == "cuda", tell)
        self.files: list[str] = []
        torch.manual_seed(settings.seed)
        self.config = PRESETS[settings.preset]
        self.model = self.new_model().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts: dict[str, Any] = {"model": self.model}

    @abstractmethod
    def train_step(self) -> StepResult:
        """One step. A loss or gradient that is not finite raises TrainingFailed before a weight is changed."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Facts of the run, for the weights file."""

    def new_model(self) -> CodecNetwork:
        """A model of the settings' shape, float32 as the crops are, on the CPU."""
        with torch.device("cpu"):
            return network_of(self.config).float()

    def trained(self) -> CodecNetwork:
        """A copy of the model on the CPU, as weights are written of it."""
        model = self.new_model()
        model.load_state_dict(self.model.state_dict())
        return model

    def any_process(self, flag: bool) -> bool:
        """Whether it is true on any of the processes."""
        return flag

    def examples(self) -> Tensor | None:
        """A picture `[3, H, W]` in [0, 1]: crops of the last step, and to the right what became of them."""
        return None

    def micro_batches(self) -> list[Tensor]:
        """This process' crops of the step, `[n, 3, crop, crop]` each; `files` are theirs."""
        found = self.batches.of(self.step)
        self.files = [file for crops in found for file in crops.files]
        return [pixels_of(crops, self.device) for crops in found]

    def seed_of(self, part: int) -> np.random.SeedSequence:
        """What the random numbers of the step's micro-batch of this number come from."""
        return np.random.SeedSequence((self.settings.seed, self.step, self._parts[part]))

    def forward(self, x: Tensor, part: int = 0, model: nn.Module | None = None, quality: Tensor | None = None) -> TrainingOutput:
        """What the model (or what wraps it) makes of the step's micro-batch of this number."""
        seed = self.seed_of(part).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))
        return (model or self.model)(x, generator) if quality is None else (model or self.model)(x, generator, quality)

    def clip(self, module: nn.Module) -> float:
        """Bounds the norm of a module's gradients; returns what it was."""
        return nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip_norm).item()

    def check_finite(self, what: str, value: float) -> None:
        """See `check_finite` below; on all processes alike."""
        if not math.isfinite(value):
            files = ", ".join(sorted(set(self.all_files())))
            where = f"on crops of {files}; {CHECKPOINT} is of before it"
            check_finite(what, value, self.step, self.advice, where)

    def all_files(self) -> list[str]:
        """The photographs of the step's crops, on all processes."""
        return self.files

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


def run_steps(run: Run, out: Path, minutes: float | None, save_every: int = SAVE_EVERY) -> None:
    """Do the steps that are left, at most for `minutes`.

    `out` gets checkpoint.pt, at the start, every `save_every` steps and at the end, and a log (see `log.Log`).
    """
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    shown: StepResult | None = None
    with (
        _ctrl_c() as stopped,
        Log(out, run.result_type, run.step, run.kind == "recipe") if run.leads else contextlib.nullcontext() as log,
        tqdm(total=run.steps, initial=run.step, unit="step", mininterval=1, disable=not run.leads) as progress,
    ):

        def save(name: str) -> None:
            if run.leads:
                run.save(out / name)

        try:
            save(CHECKPOINT)
            while run.step < run.steps and not run.any_process(time.monotonic() >= end or stopped.is_set()):
                result = run.train_step()
                if log:
                    log.write(result)
                    shown = result if shown is None else _running_mean(shown, result)
                    progress.update()
                    progress.set_postfix_str(str(shown))
                if name := run.milestones.get(run.step):
                    save(name)
                if run.step % save_every == 0:
                    save(CHECKPOINT)
                    if log and (picture := run.examples()) is not None:
                        log.picture(picture, run.step)
        except DkicError:  # raised before a weight is changed; anything else may have come between two of them
            save(CHECKPOINT)
            raise
        save(CHECKPOINT)


def check_finite(what: str, value: float, step: int, advice: str, where: str = "") -> None:
    """TrainingFailed where a loss or the norm of a gradient is not finite."""
    if not math.isfinite(value):
        at = f"at step {step}, {where}" if where else f"at step {step}"
        raise TrainingFailed(f"the {what} became {value} {at}; train anew with a lower {advice}")


def psnr_of(mse: float) -> float:
    """PSNR in dB of values in [0, 1]."""
    return -10 * math.log10(max(mse, 1e-10))


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


def _running_mean(mean: StepResult, new: StepResult, keep: float = 0.98) -> StepResult:
    """Of every figure but the step; what was not measured before (NaN) begins anew."""
    values = asdict(new)
    for name, before in asdict(mean).items():
        if name != "step" and not math.isnan(before):
            values[name] = keep * before + (1 - keep) * values[name]
    return replace(new, **values)
