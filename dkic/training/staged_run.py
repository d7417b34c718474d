"""Training by a recipe, equations 1 to 5 of the paper: distortion at a rate, then with a discriminator."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dkic.errors import DkicError
from dkic.models import PRESETS, network_of
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.training.adversary import Adversary
from dkic.training.along_quality import along
from dkic.training.batches import Share
from dkic.training.compiled import compile_networks
from dkic.training.distances import Distances
from dkic.training.photos import PhotoFolder
from dkic.training.processes import autocast_transforms
from dkic.training.rate_term import RateTerm
from dkic.training.recipe import Recipe, Stage
from dkic.training.run import Run
from dkic.training.stage_schedule import StageSchedule
from dkic.training.step_result import StepResult, psnr_of


class StagedRun(Run):
    """A recipe's run, in one process or, under torchrun, in several that share each step's crops.

    In a stage with a discriminator, both sides' gradients are taken at the same weights and then both are stepped. Means of
    the losses and equation 2's rate are over all of the step's crops, those of the relativistic GAN's logits over a
    micro-batch on all processes.

    Args:
        recipe: see Recipe.
        photos: where crops come from.
        accelerator: see `processes.accelerator_for`.
        lpips_backbone: see `dkic.losses.lpips.LPIPS`.
        workers, tell: see `Run`.

    Attributes: `recipe`; `schedule`; `rate`; `distances`; `adversary`, None where no stage has a discriminator; `average`, of the
    weights, or None; `parts`, whose states a checkpoint keeps.
    """

    def __init__(
        self,
        recipe: Recipe,
        photos: PhotoFolder,
        accelerator: Accelerator,
        lpips_backbone: str | Path | None = None,
        *,
        workers: int = 0,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        _check_judged_crops(recipe, accelerator.num_processes)
        self.recipe, self.accelerator = recipe, accelerator
        self.schedule = StageSchedule(recipe, len(photos.paths))
        self.config = PRESETS[recipe.preset]
        device = accelerator.device
        torch.manual_seed(recipe.seed)
        super().__init__(
            self.new_model().to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            recipe,
            photos,
            self.schedule.learning_rate,
            self.schedule.steps,
            device=device,
            share=Share(accelerator.process_index, accelerator.num_processes, recipe.accumulation),
            workers=workers,
            tell=tell,
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        self.adversary: Adversary | None = None
        if any(stage.gan for stage in recipe.stages):
            channels = self.config.latent_channels
            self.adversary = Adversary(channels, recipe.discriminator_width, recipe.accumulation, accelerator)
            self.parts["discriminator"] = self.adversary.discriminator
            self.parts["discriminator_optimizer"] = self.adversary.optimizer
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
            self.parts["average"] = self.average
        if recipe.precision == "bfloat16":
            autocast_transforms(self.model, self.device)
        self._shared_model = accelerator.prepare_model(self.model)
        self.distances = Distances(recipe, lpips_backbone).to(self.device)
        if recipe.compile:
            compile_networks([self.model.g_a, self.model.g_s, *self.distances.backbones()], device)
        self.rate = RateTerm(recipe.rate, self.schedule)
        self._examples: tuple[Tensor, Tensor] | None = None

    def new_model(self) -> CodecNetwork:
        """A model of the recipe's shape, float32 as the crops are, on the CPU."""
        with torch.device("cpu"):
            return network_of(self.config).float()

    def trained(self) -> CodecNetwork:
        """A copy of the model on the CPU, as weights are written of it: the moving average, where the recipe has one."""
        model = self.new_model()
        model.load_state_dict((self.average.module if self.average else self.model).state_dict())
        return model

    def start_with(self, model: CodecNetwork) -> None:
        """Begin with the numbers of a model that was trained before."""
        if model.config != self.model.config:
            raise DkicError(f"weights: must have the shape of {self.recipe.preset}")
        self.model.load_state_dict(model.state_dict())
        if self.average:
            self.average.module.load_state_dict(model.state_dict())

    @property
    def stage(self) -> Stage:
        """That of the next step; the last one where all are done."""
        return self.schedule.stage_at(self.step)

    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer, self.adversary.optimizer] if self.stage.gan and self.adversary else [self.optimizer]

    def train_step(self) -> StepResult:
        if self.recipe.compile:
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the step before have left may be overwritten
        frozen = self.stage.freeze
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("g_s."))
        with self.adversary.restored_on_failure() if self.adversary else contextlib.nullcontext():
            result = super().train_step()
        if self.average:
            self.average.update_parameters(self.model)
        return result

    def accumulate(self, crops: Sequence[Tensor]) -> dict[str, Tensor]:
        rate_weight = self._rate_weight(crops)
        figures = []
        for part, x in enumerate(crops):
            with self._gradients_kept_here() if part + 1 < len(crops) else contextlib.nullcontext():
                figures.append(self._accumulate(x, part, rate_weight))
        means = torch.stack([torch.stack(list(f.values())) for f in figures]).mean(0)
        mean = dict(zip(figures[0], self.accelerator.reduce(means, "mean"), strict=True))
        return mean | {"psnr": psnr_of(mean.pop("mse"))}

    def _rate_weight(self, crops: Sequence[Tensor]) -> Tensor | None:
        """Equation 2's choice for the step, where one forward pass doesn't see all that it depends on."""
        if len(crops) == 1 or self.rate.target is None:
            return None
        with torch.no_grad():
            bits = torch.cat([self.forward(x, part).quantized_bits for part, x in enumerate(crops)])
        return self.rate.weight(bits / crops[0][0, 0].numel(), None, self.step)

    def _gradients_kept_here(self) -> contextlib.ExitStack:
        """In it, gradients stay in this process: those of a later micro-batch take them along."""
        stack = contextlib.ExitStack()
        for model in [self._shared_model] + ([self.adversary.shared] if self.adversary else []):
            stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def _accumulate(self, x: Tensor, part: int, rate_weight: Tensor | None) -> dict[str, Tensor]:
        """Adds a micro-batch's part of the step's gradients; returns its terms of the loss, and mse, as scalars."""
        weights = self.recipe.weights
        quality = self.qualities(part, len(x))
        out = self.forward(x, part, quality)
        pixels = x[0, 0].numel()
        bpp, quantized_bpp = out.bits / pixels, out.quantized_bits / pixels
        squared = (out.x_hat - x).square().mean((1, 2, 3))
        # A decoder clamps: what it shows is judged. The squared error draws back what lies outside.
        shown = out.x_hat.clamp(0, 1)
        window = self.lpips_window(part)
        loss, distances = self.distances(x[window], shown[window], quality)
        loss = loss + along(weights.mse, quality) * 255**2 * squared
        if rate_weight is None:
            rate_weight = self.rate.weight(quantized_bpp, quality, self.step)
        loss = (loss + rate_weight * bpp).mean()
        terms = {"bpp": bpp.mean(), "quantized_bpp": quantized_bpp.mean(), "mse": squared.mean()}
        terms |= {name: distance.mean() for name, distance in distances.items()}
        terms["rate_weight"] = rate_weight.mean()
        if self.stage.gan and self.adversary:
            weight = along(weights.gan, quality) * self.schedule.gan_factor(self.step)
            gan, figures = self.adversary.losses(x, shown, out.y_hat, weight)
            terms |= figures
            loss = loss + gan
        (loss / self.recipe.accumulation).backward()
        self._examples = x[:4], shown[:4].detach()
        return {name: value.detach().float() for name, value in (terms | {"loss": loss}).items()}

    def forward(self, x: Tensor, part: int = 0, quality: Tensor | None = None) -> TrainingOutput:
        """What the model makes of the step's micro-batch of this number."""
        noise = self.noise(part)
        return self._shared_model(x, noise) if quality is None else self._shared_model(x, noise, quality)

    def lpips_window(self, part: int) -> tuple[EllipsisType, slice, slice]:
        """Where distances of a micro-batch are taken, drawn from (seed, step, micro-batch) as all else is."""
        shifts, size = self.recipe.lpips_shifts, self.recipe.crop - self.recipe.lpips_shifts + 1
        top, left = np.random.default_rng(self.seed_of(part).spawn(1)[0]).integers(shifts, size=2)
        return ..., slice(top, top + size), slice(left, left + size)

    def any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), dtype=torch.float32, device=self.device), "sum"))

    def all_files(self) -> list[str]:
        return gather_object(self.files)

    def examples(self) -> Tensor | None:
        """An image `[3, H, W]` in [0, 1]: crops of the last step, and to the right their reconstructions; None before a step."""
        return None if self._examples is None else torch.cat(self._examples, 3).transpose(0, 1).flatten(1, 2)

    def about(self) -> dict[str, Any]:
        """Facts of the run, for the weights file."""
        photographs = len(self.photos.paths) - len(self.batches.unreadable)
        return {"recipe": self.recipe.to_dict(), "steps": self.step, "photographs": photographs}


def _check_judged_crops(recipe: Recipe, processes: int) -> None:
    share = recipe.batch // (recipe.accumulation * processes)
    if recipe.judged_crops > share:
        raise DkicError(
            f"vgg_crops: {recipe.judged_crops} crops are judged in each micro-batch of each process, which has {share}; "
            "use fewer processes, a larger batch or less accumulation"
        )
