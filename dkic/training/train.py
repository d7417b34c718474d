"""Training for rate and mean squared error: `dkic train`.

Everything random is drawn from (seed, step), so a checkpoint needs no generator state: resuming continues exactly.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dkic.errors import DkicError
from dkic.models import DKIC, PRESETS
from dkic.models.config import ModelConfig
from dkic.training.photos import PhotoFolder

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainSettings:
    """What a run needs to be repeated.

    lambda_: weight of the distortion in loss = bpp + lambda * 255^2 * MSE (MSE of values in [0, 1]); CompressAI's convention.
    steps: length of the run; the learning rate falls from `learning_rate` to 1% of it along a cosine over them.
    """

    preset: str
    lambda_: float
    steps: int
    batch: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise DkicError(f"--preset must be one of {', '.join(PRESETS)}, not {self.preset}")
        if self.crop < 64 or self.crop % 64:
            raise DkicError(f"--crop must be a multiple of 64 (128 and 256 are usual), not {self.crop}")
        if not (self.lambda_ > 0 and math.isfinite(self.lambda_)):
            raise DkicError(f"--lambda must be above 0, not {self.lambda_}")
        if self.steps < 1 or self.batch < 1:
            raise DkicError(f"--steps and --batch must be at least 1, not {self.steps} and {self.batch}")


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
        """One step of Adam. A loss that is not finite raises DkicError before anything is changed."""
        s = self.settings
        x = self.photos.batch(s.batch, s.seed, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / s.steps))))
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        out = self.model(x, generator)
        bpp = out.bits.sum() / x[:, 0].numel()
        mse = (out.x_hat - x).square().mean()
        loss = bpp + s.lambda_ * 255**2 * mse
        if not math.isfinite(loss.item()):
            raise DkicError(f"the loss became {loss.item()} at step {self.step}; resume from the checkpoint with a lower --lr")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), s.clip_norm)
        self.optimizer.step()
        self.step += 1
        return StepResult(self.step, loss.item(), bpp.item(), -10 * math.log10(max(mse.item(), 1e-10)))

    def save(self, path: Path) -> None:
        """Write a checkpoint to a temporary name and rename it."""
        state = {
            "settings": asdict(self.settings),
            "config": self.config.to_dict(),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's contents (see load_checkpoint)."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents; what is not one is a DkicError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if set(state) != {"settings", "config", "step", "model", "optimizer"}:
            raise ValueError("other contents")
        return state
    except FileNotFoundError:
        raise DkicError(f"{path}: no checkpoint there to resume from") from None
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DkicError(f"{path}: not a dkic training checkpoint ({type(error).__name__})") from error


def run(
    photos: PhotoFolder,
    settings: TrainSettings,
    out: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    save_every: int = 200,
    log: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """Train until settings.steps are done or `minutes` are over; a checkpoint is left in `out` either way.

    Ctrl-C stops after saving. The log `out/log.csv` has a line per step: step,loss,bpp,psnr.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise DkicError(f"{path} exists: add --resume to continue that run, or give another --out")
    trainer = Trainer(settings, photos)
    if resume:
        trainer.restore(load_checkpoint(path))
    start = time.monotonic()
    with open(out / "log.csv", "a", encoding="utf-8", buffering=1) as csv:
        progress = tqdm(total=settings.steps, initial=trainer.step, unit="step", mininterval=1)
        mean: StepResult | None = None
        try:
            while trainer.step < settings.steps and (minutes is None or time.monotonic() - start < minutes * 60):
                result = trainer.train_step()
                csv.write(f"{result.step},{result.loss:.6g},{result.bpp:.6g},{result.psnr:.5g}\n")
                mean = result if mean is None else _running_mean(mean, result)
                progress.update()
                progress.set_postfix_str(f"bpp {mean.bpp:.3f}, PSNR {mean.psnr:.2f} dB")
                if trainer.step % save_every == 0:
                    trainer.save(path)
        except KeyboardInterrupt:
            log("stopped")
        finally:
            progress.close()
            trainer.save(path)
    return trainer


def _running_mean(mean: StepResult, new: StepResult, keep: float = 0.98) -> StepResult:
    def mixed(a: float, b: float) -> float:
        return keep * a + (1 - keep) * b

    return StepResult(new.step, mixed(mean.loss, new.loss), mixed(mean.bpp, new.bpp), mixed(mean.psnr, new.psnr))
