"""Training, `dkic train`: for rate and mean squared error here; by a recipe, see stages.py."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dkic.errors import DkicError, install
from dkic.models import PRESETS, VariableRateConfig
from dkic.models.trainable import trainable
from dkic.models.weights_file import find_weights, load_weights, save_weights
from dkic.output_file import reason
from dkic.training.batches import default_workers
from dkic.training.device import DeviceName, device_for
from dkic.training.log import StepResult
from dkic.training.photos import PhotoFolder
from dkic.training.run import CHECKPOINT, SAVE_EVERY, Run, TrainingFailed, psnr_of, run_steps
from dkic.training.schedule import cosine

if TYPE_CHECKING:  # it needs the extra [train], which training for MSE does not
    from dkic.training.recipe import Recipe
    from dkic.training.stages import StagedRun

# Rate that presses from the first step leaves whole dimensions uncoded: a `tiny` run at lambda 0.0067 had no red-green axis after
# 3,800 steps (a held-out photograph of autumn leaves at 21.0 dB); 1,600 steps at 0.05 from there brought it in (29.3 dB).
WARMUP_FACTOR = 8


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
        if isinstance(PRESETS[self.preset], VariableRateConfig):
            raise DkicError(f"--preset {self.preset} is a variable-rate model, which is trained by a recipe; give --config")
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Trainer(Run):
    """Of the model for rate and mean squared error alone."""

    kind, advice = "settings", "--lr"
    settings: TrainSettings

    def __init__(self, settings: TrainSettings, photos: PhotoFolder, **options: Any) -> None:
        super().__init__(settings, photos, **options)
        self.steps = settings.steps
        self.optimizer = torch.optim.Adam(self.model.parameters(), settings.learning_rate)
        self.parts["optimizer"] = self.optimizer

    def train_step(self) -> StepResult:
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * cosine(self.step, s.steps)
        (x,) = self.micro_batches()
        out = self.forward(x)
        bpp = out.bits.sum() / x[:, 0].numel()
        mse = (out.x_hat - x).square().mean()
        lambda_ = s.lambda_ * (WARMUP_FACTOR if self.step < s.warmup_steps else 1)
        loss = bpp + lambda_ * 255**2 * mse
        self.check_finite("loss", loss.item())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.check_finite("gradient", self.clip(self.model))
        self.optimizer.step()
        self.step += 1
        return StepResult(self.step, loss.item(), bpp.item(), psnr_of(mse.item()))

    def about(self) -> dict[str, Any]:
        s = self.settings
        about = {"lambda": s.lambda_, "steps": self.step, "batch": s.batch, "crop": s.crop}
        return about | {"warmup_steps": s.warmup_steps, "seed": s.seed}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's contents; what is not one is a DkicError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"config", "photos", "step", "model", "optimizer"} <= set(state):
            raise ValueError("other contents")
        _settings_in(state)
        return state
    except FileNotFoundError:
        raise DkicError(f"{path}: no checkpoint there to go on from") from None
    except DkicError as error:
        raise DkicError(f"{path}: {error}") from None
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DkicError(f"{path}: not a dkic training checkpoint ({type(error).__name__})") from error


def _settings_in(state: Mapping[str, Any]) -> "TrainSettings | Recipe":
    if "recipe" not in state:
        return TrainSettings(**state["settings"])
    _need_train_extra()
    from dkic.training.recipe import Recipe

    return Recipe.of(state["recipe"])


def settings_of(
    out: Path, options: Mapping[str, Any], given: Mapping[str, Any], resume: bool, config: Path | None = None
) -> "TrainSettings | Recipe":
    """Settings of a new run, from its options or the recipe in `config`; of a resumed one, from its checkpoint.

    given: the options that were not left at their defaults. With a recipe there may be none; of those that a resumed
    run began with, only `steps` may change.
    """
    if config is not None and given:
        raise DkicError(f"{_option(min(given))} can't be given with --config: {config} says it all")
    recipe = None
    if config is not None:
        _need_train_extra()
        from dkic.training.recipe import read_recipe

        recipe = read_recipe(config)
    if not resume:
        return recipe or TrainSettings(**options)
    kept = _settings_in(load_checkpoint(out / CHECKPOINT))
    if not isinstance(kept, TrainSettings):
        if given:
            raise DkicError(f"{_option(min(given))} can't be given: {out} was begun with a recipe, and keeps it")
        if recipe not in (None, kept):
            raise DkicError(f"{config} is not the recipe that {out} was begun with; a resumed run keeps it")
        return kept
    if recipe is not None:
        raise DkicError(f"--config: {out} was begun without a recipe; a resumed run keeps its settings")
    for field in fields(kept):
        if field.name != "steps" and field.name in given and given[field.name] != getattr(kept, field.name):
            raise DkicError(f"{_option(field.name)} was {getattr(kept, field.name)} in {out}; a resumed run keeps it")
    return replace(kept, steps=given.get("steps", kept.steps))


def _option(name: str) -> str:
    """The command's option for a setting."""
    return "--" + {"lambda_": "lambda", "learning_rate": "lr", "warmup_steps": "warmup-steps"}.get(name, name)


def _need_train_extra() -> None:
    for module in ("pydantic", "yaml", "lpips", "torchvision", "accelerate", "tensorboard"):
        if find_spec(module) is None:
            raise DkicError(f"training by a recipe needs {module}; {install('train')}")


def train_folder(
    folders: Path | Sequence[Path],
    settings: "TrainSettings | Recipe",
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
) -> Path:
    """Train until all steps are done, `minutes` are over or Ctrl-C; returns the weights file written into `out`.

    `out` also gets checkpoint.pt, every `save_every` steps and at the end, and log.csv with a line per step; with a recipe
    TensorBoard's files too. For a recipe alone: `start_from`, a checkpoint of another run's first stage, to begin with the
    second, or a weights file or the name of shipped ones, of which the level `quality` is taken, to begin with those weights;
    lpips_backbone: see `LPIPS`. device: see `device_for`. workers: processes that decode photographs; None: 1 for the
    CPU, 4 for a GPU.
    """
    path = out / CHECKPOINT
    if path.exists() and not resume:
        raise DkicError(f"{path} exists: add --resume to continue that run, or give another --out")
    trainer: Run
    if isinstance(settings, TrainSettings):
        for option, value in (("start-from", start_from), ("lpips-backbone", lpips_backbone)):
            if value:
                raise DkicError(f"--{option} needs --config")
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise DkicError("training in several processes needs --config")
        photos = PhotoFolder(folders, settings.crop)
        _tell_of(photos, log)
        where = device_for(device)
        workers = default_workers(where) if workers is None else workers
        trainer = Trainer(settings, photos, device=where, workers=workers, tell=log)
    else:
        from dkic.training.processes import accelerator_for, leave, made_once
        from dkic.training.stages import StagedRun

        accelerator = accelerator_for(device, any(stage.freeze for stage in settings.stages))
        options: dict[str, Any] = {"imagenet_photos": settings.imagenet_photos, "least_scale": settings.least_scale}
        photos = made_once(accelerator, lambda: PhotoFolder(folders, settings.crop, **options))
        if accelerator.is_main_process:
            _tell_of(photos, log)
        workers = default_workers(accelerator.device) if workers is None else workers
        trainer = StagedRun(settings, photos, accelerator, lpips_backbone, workers=workers, tell=log)
        if start_from and not resume:
            _start(trainer, start_from, quality)
    if resume:
        trainer.restore(load_checkpoint(path))
    variable_rate = isinstance(PRESETS[settings.preset], VariableRateConfig)
    weights = out / f"{settings.preset}{'' if variable_rate else f'-q{quality}'}.safetensors"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{out}: can't be written ({reason(error)})") from error
    try:
        run_steps(trainer, out, minutes, save_every)
        if trainer.leads:
            photographs = len(photos.paths) - len(trainer.batches.unreadable)
            save_weights(weights, trainer.trained(), quality, trainer.about() | {"photographs": photographs})
    except OSError as error:
        raise TrainingFailed(f"{out}: can't be written ({reason(error)})") from error
    except DkicError as error:
        raise TrainingFailed(str(error)) from error
    if not isinstance(settings, TrainSettings):
        leave()
    return weights


def _start(run: "StagedRun", start: str | Path, quality: int) -> None:
    if Path(start).suffix == ".pt":
        run.start_from(load_checkpoint(Path(start)))
        return
    levels = [load_weights(path) for path in find_weights(start)]
    found = levels if len(levels) == 1 else [level for level in levels if level.quality == quality]
    if not found:
        have = ", ".join(str(level.quality) for level in levels)
        raise DkicError(f"--start-from {start}: it has the quality levels {have}; choose one of them with --quality")
    run.start_with(trainable(found[0]))


def _tell_of(photos: PhotoFolder, log: Callable[[str], None]) -> None:
    skipped = {"too small": photos.too_small, "unreadable": len(photos.broken), "not images": photos.others}
    log(f"{len(photos)} photographs; skipped: " + ", ".join(f"{n} {why}" for why, n in skipped.items()))
    for path in photos.broken:
        log(f"{path}: not a picture that can be read, so it is skipped")
