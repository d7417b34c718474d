"""Training for rate and mean squared error: `dkic train`.

Everything random is drawn from (seed, step), so a checkpoint needs no generator state: resuming continues exactly.
"""

import contextlib
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dkic.errors import DkicError
from dkic.models import DKIC, PRESETS
from dkic.models.config import ModelConfig
from dkic.models.weights_file import save_weights
from dkic.output_file import reason, write_atomically
from dkic.training.photos import PhotoFolder

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY = 200  # steps

# Rate that presses from the first step leaves whole dimensions uncoded: a `tiny` run at lambda 0.0067 had no red-green axis after
# 3,800 steps (a held-out photograph of autumn leaves at 21.0 dB); 1,600 steps at 0.05 from there brought it in (29.3 dB).
WARMUP_FACTOR = 8


class TrainingFailed(DkicError):
    """A run that had begun can't go on: a loss that is not finite, a full disk."""


@dataclass(frozen=True)
class TrainSettings:
    """What a run needs to be repeated.

    lambda_: weight of the distortion in loss = bpp + lambda * 255^2 * MSE (MSE of values in [0, 1]); CompressAI's convention.
    steps: length of the run; the learning rate falls from `learning_rate` to 1% of it along a cosine over them.
    warmup_steps: first steps, in which lambda_ is 8 times as large, so that no dimension of colour is lost before it is learned.
    """

    preset: str
    lambda_: float
    steps: int
    batch: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise DkicError(f"--preset must be one of {', '.join(PRESETS)}, not {self.preset}")
        if self.crop < 64 or self.crop % 64:
            raise DkicError(f"--crop must be a multiple of 64 (128 and 256 are usual), not {self.crop}")
        if not (self.lambda_ > 0 and math.isfinite(self.lambda_)):
            raise DkicError(f"--lambda must be above 0, not {self.lambda_}")
        if self.steps < 1 or self.batch < 1:
            raise DkicError(f"--steps and --batch must be at least 1, not {self.steps} and {self.batch}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise DkicError(f"--lr must be above 0, not {self.learning_rate}")
        if self.warmup_steps < 0:
            raise DkicError(f"--warmup-steps must be at least 0, not {self.warmup_steps}")
        if not 0 <= self.seed < 2**32:
            raise DkicError(f"--seed must be at least 0 and below 2^32, not {self.seed}")


@dataclass(frozen=True)
class StepResult:
    """One step's figures, over its batch: loss, rate in bits per pixel, PSNR in dB."""

    step: int
    loss: float
    bpp: float
    psnr: float


class Trainer:
    """Model, optimiser and step counter of a run.

    Args:
        settings: see TrainSettings.
        photos: where crops come from.
    """

    def __init__(self, settings: TrainSettings, photos: PhotoFolder) -> None:
        self.settings, self.photos, self.step = settings, photos, 0
        torch.manual_seed(settings.seed)
        self.config: ModelConfig = PRESETS[settings.preset]
        self.model = DKIC(self.config).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), settings.learning_rate)

    def train_step(self) -> StepResult:
        """One step of Adam. A loss or gradient that is not finite raises TrainingFailed before anything is changed."""
        s = self.settings
        x = self.photos.batch(s.batch, s.seed, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / s.steps))))
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        out = self.model(x, generator)
        bpp = out.bits.sum() / x[:, 0].numel()
        mse = (out.x_hat - x).square().mean()
        lambda_ = s.lambda_ * (WARMUP_FACTOR if self.step < s.warmup_steps else 1)
        loss = bpp + lambda_ * 255**2 * mse
        if not math.isfinite(loss.item()):
            raise TrainingFailed(f"the loss became {loss.item()} at step {self.step}; train anew with a lower --lr")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        if not norm.isfinite():
            raise TrainingFailed(f"the gradient became {norm.item()} at step {self.step}; train anew with a lower --lr")
        self.optimizer.step()
        self.step += 1
        return StepResult(self.step, loss.item(), bpp.item(), -10 * math.log10(max(mse.item(), 1e-10)))

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "settings": asdict(self.settings),
            "config": self.config.to_dict(),
            "photos": self.photos.fingerprint,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        content = io.BytesIO()  # into a file, torch.save would tell a full disk by a RuntimeError
        torch.save(state, content)
        write_atomically(path, content.getvalue(), force=True)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's contents (see load_checkpoint)."""
        if state["photos"] != self.photos.fingerprint:
            raise DkicError("the folder holds other photographs than those that the run began with, so it can't continue exactly")
        try:
            if state["config"] != self.config.to_dict():
                raise ValueError("another shape")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise DkicError(f"the checkpoint does not fit {self.settings.preset} as this version of dkic has it") from error
        self.step = state["step"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents; what is not one is a DkicError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if set(state) != {"settings", "config", "photos", "step", "model", "optimizer"}:
            raise ValueError("other contents")
        TrainSettings(**state["settings"])
        return state
    except FileNotFoundError:
        raise DkicError(f"{path}: no checkpoint there to resume from") from None
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DkicError(f"{path}: not a dkic training checkpoint ({type(error).__name__})") from error


def settings_of(out: Path, options: Mapping[str, Any], given: Mapping[str, Any], resume: bool) -> TrainSettings:
    """Settings of a new run from its options; of a resumed one from its checkpoint, where only `steps` may be given anew."""
    if not resume:
        return TrainSettings(**options)
    kept = TrainSettings(**load_checkpoint(out / CHECKPOINT)["settings"])
    for field in fields(kept):
        if field.name != "steps" and field.name in given and given[field.name] != getattr(kept, field.name):
            option = {"lambda_": "lambda", "learning_rate": "lr", "warmup_steps": "warmup-steps"}.get(field.name, field.name)
            raise DkicError(f"--{option} was {getattr(kept, field.name)} in {out}; a resumed run keeps it")
    return replace(kept, steps=given.get("steps", kept.steps))


def train_folder(
    folder: Path,
    settings: TrainSettings,
    out: Path,
    *,
    quality: int = 1,
    resume: bool = False,
    minutes: float | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train until settings.steps are done, `minutes` are over or Ctrl-C; returns the weights file written into `out`.

    `out` also gets checkpoint.pt, every 200 steps and at the end, and log.csv with a line per step: step,loss,bpp,psnr.
    """
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise DkicError(f"{path} exists: add --resume to continue that run, or give another --out")
    photos = PhotoFolder(folder, settings.crop)
    found = len(photos)
    log(f"{found} photographs; skipped: " + ", ".join(f"{n} {why}" for why, n in photos.skipped.items()))
    trainer = Trainer(settings, photos)
    if resume:
        trainer.restore(load_checkpoint(path))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{out}: can't be written ({reason(error)})") from error
    try:
        _run(trainer, out, minutes)
        if len(photos) < found:
            log(f"{found - len(photos)} of the photographs could not be read to their end and were left out")
        weights = out / f"{settings.preset}-q{quality}.safetensors"
        about = {"lambda": settings.lambda_, "steps": trainer.step, "batch": settings.batch, "crop": settings.crop}
        about |= {"warmup_steps": settings.warmup_steps, "seed": settings.seed}
        save_weights(weights, trainer.model, quality, about | {"photographs": len(photos)})
    except OSError as error:
        raise TrainingFailed(f"{out}: can't be written ({reason(error)})") from error
    except DkicError as error:
        raise TrainingFailed(str(error)) from error
    return weights


def _run(trainer: Trainer, out: Path, minutes: float | None) -> None:
    steps = trainer.settings.steps
    end = math.inf if minutes is None else time.monotonic() + minutes * 60
    shown: StepResult | None = None
    with (
        _ctrl_c() as stopped,
        _log_after(out / "log.csv", trainer.step) as csv,
        tqdm(total=steps, initial=trainer.step, unit="step", mininterval=1) as progress,
    ):
        try:
            while trainer.step < steps and time.monotonic() < end and not stopped.is_set():
                result = trainer.train_step()
                csv.write(f"{result.step},{result.loss:.6g},{result.bpp:.6g},{result.psnr:.5g}\n")
                shown = result if shown is None else _running_mean(shown, result)
                progress.update()
                progress.set_postfix_str(f"bpp {shown.bpp:.3f}, PSNR {shown.psnr:.2f} dB")
                if trainer.step % SAVE_EVERY == 0:
                    trainer.save(out / CHECKPOINT)
        finally:
            trainer.save(out / CHECKPOINT)


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
def _log_after(path: Path, step: int) -> Iterator[Any]:
    """The log, open for more, without the lines of steps that were done after the checkpoint and then lost."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: step + 1] if path.exists() else []
    with open(path, "w", encoding="utf-8", buffering=1) as csv:
        csv.writelines(lines or ["step,loss,bpp,psnr\n"])
        yield csv


def _running_mean(mean: StepResult, new: StepResult, keep: float = 0.98) -> StepResult:
    def mixed(a: float, b: float) -> float:
        return keep * a + (1 - keep) * b

    return StepResult(new.step, mixed(mean.loss, new.loss), mixed(mean.bpp, new.bpp), mixed(mean.psnr, new.psnr))
