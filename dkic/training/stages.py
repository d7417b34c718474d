"""PO-DKIC's training in stages, equations 1 to 5 of the paper: distortion at a rate, then with a discriminator."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dkic.errors import DkicError
from dkic.losses.rate_target import RateTarget, StepSchedule
from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.models.discriminator import Discriminator
from dkic.training.along_quality import along, spread_qualities
from dkic.training.distances import Distances
from dkic.training.log import StepResult
from dkic.training.photos import PhotoFolder
from dkic.training.processes import autocast_transforms
from dkic.training.recipe import Recipe, Stage
from dkic.training.run import Run, TrainingFailed, psnr_of
from dkic.training.schedule import cosine

# Left at the end of the first stage: runs at other rates can start from it.
WARMED_UP = "warmed_up.pt"
_LAST_RATE = 0.02  # of the peak learning rate, at the end


@dataclass(frozen=True)
class StageResult(StepResult):
    """More figures of a step: equation 2's rate and choice of lambda, and the terms of equations 3 and 5.

    bpp is of the noisy latent, quantized_bpp what files would have. gan is not weighted. NaN: what the loss has no weight for.
    """

    quantized_bpp: float
    rate_weight: float
    lpips: float = math.nan
    dists: float = math.nan
    lpips_vgg: float = math.nan
    color: float = math.nan
    gan: float = math.nan
    discriminator: float = math.nan
    discriminator_accuracy: float = math.nan

    def __str__(self) -> str:
        text = f"bpp {self.quantized_bpp:.3f}, PSNR {self.psnr:.2f} dB, LPIPS {self.lpips:.3f}"
        return text if math.isnan(self.gan) else f"{text}, D right in {self.discriminator_accuracy:.0%}"


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
        options: workers and tell, see `Run`.
    """

    kind, advice, result_type = "recipe", "learning rate", StageResult
    settings: Recipe

    def __init__(
        self,
        recipe: Recipe,
        photos: PhotoFolder,
        accelerator: Accelerator,
        lpips_backbone: str | Path | None = None,
        **options: Any,
    ) -> None:
        share = recipe.batch // (recipe.accumulation * accelerator.num_processes)
        if recipe.judged_crops > share:
            raise DkicError(
                f"vgg_crops: {recipe.judged_crops} crops are judged in each micro-batch of each process, which has {share}; "
                "use fewer processes, a larger batch or less accumulation"
            )
        super().__init__(
            recipe,
            photos,
            device=accelerator.device,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            micro_batches=recipe.accumulation,
            **options,
        )
        self.accelerator = accelerator
        with torch.device("cpu"):
            self.discriminator = Discriminator(self.config.latent_channels, recipe.discriminator_width)
        self.discriminator.to(self.device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate = recipe.learning_rate.peak or recipe.learning_rate.values[0]
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate, fused=True)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), rate, fused=True)
        for name in ("optimizer", "discriminator", "discriminator_optimizer"):
            self.parts[name] = getattr(self, name)
        self.average: AveragedModel | None = None
        if recipe.ema is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
            self.parts["average"] = self.average
        if recipe.precision == "bfloat16":
            autocast_transforms(self.model, self.device)
        self._shared = accelerator.prepare_model(self.model), accelerator.prepare_model(self.discriminator)
        self.distances = Distances(recipe, lpips_backbone).to(self.device)
        self._examples: tuple[Tensor, Tensor] | None = None

        epoch = recipe.epoch_steps or max(1, len(photos.paths) // recipe.batch)
        self._ends = [epoch * epochs for epochs in accumulate(stage.epochs for stage in recipe.stages)]
        self.steps = self._ends[-1]
        if len(recipe.stages) > 1:
            self.milestones = {self._ends[0]: WARMED_UP}
        self._learning_rates = None
        if recipe.learning_rate.peak is None:
            ends = tuple(epoch * epochs for epochs in recipe.learning_rate.epochs)
            self._learning_rates = StepSchedule(tuple(recipe.learning_rate.values), ends)
        self._lambda_factor = StepSchedule(tuple(stage.lambda_factor for stage in recipe.stages), tuple(self._ends[:-1]))
        self.rate: RateTarget | None = None  # None: weights along the quality
        if recipe.rate.target is not None:
            assert recipe.rate.lambda_alpha is not None and recipe.rate.lambda_beta is not None
            self.rate = RateTarget(
                recipe.rate.target,
                recipe.rate.lambda_alpha,
                recipe.rate.lambda_beta,
                StepSchedule(tuple(stage.target_factor for stage in recipe.stages), tuple(self._ends[:-1])),
                self._lambda_factor,
            )

    @property
    def stage(self) -> Stage:
        """That of the next step; the last one where all are done."""
        number = sum(self.step >= end for end in self._ends[:-1])
        return self.settings.stages[number]

    def learning_rate(self) -> float:
        """That of the next step."""
        if self._learning_rates is not None:
            return self._learning_rates.at(self.step)
        rate = self.settings.learning_rate
        assert rate.peak is not None
        warmup = min(1.0, (self.step + 1) / (rate.warmup_steps + 1))
        return rate.peak * warmup * cosine(self.step, self.steps, _LAST_RATE)

    def start_from(self, state: dict[str, Any]) -> None:
        """Begin at the second stage, with the model and its optimiser as the first stage of another run left them."""
        if len(self.settings.stages) < 2:
            raise DkicError("to start from another run's first stage, a recipe needs a second one")
        self.restore_parts(state, "model", "optimizer")
        if self.average and "average" in state:
            self.restore_parts(state, "average")
        elif self.average:
            self.average.module.load_state_dict(self.model.state_dict())
        self.step = self._ends[0]

    def start_with(self, model: CodecNetwork) -> None:
        """Begin with the numbers of a model that was trained before."""
        if model.config != self.model.config:
            raise DkicError(f"the weights have another shape than {self.settings.preset}")
        self.model.load_state_dict(model.state_dict())
        if self.average:
            self.average.module.load_state_dict(model.state_dict())

    def train_step(self) -> StageResult:
        stage = self.stage
        optimizers = [self.optimizer, self.discriminator_optimizer][: 1 + stage.gan]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not stage.freeze or name.startswith("g_s."))
        estimates = [(buffer, buffer.clone()) for buffer in self.discriminator.buffers()]

        crops = self.micro_batches()
        rate_weight = self._rate_weight(crops)
        figures = []
        for part, x in enumerate(crops):
            with self._gradients_kept_here() if part + 1 < len(crops) else contextlib.nullcontext():
                figures.append(self._accumulate(x, part, stage, rate_weight))
        names = list(figures[0])
        means = torch.stack([torch.stack(list(f.values())) for f in figures]).mean(0)
        mean = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        try:
            self.check_finite("loss", mean["loss"])
            for module in (self.model, self.discriminator)[: 1 + stage.gan]:
                self.check_finite("gradient", self.clip(module))
        except TrainingFailed:
            for buffer, before in estimates:
                buffer.copy_(before)
            raise
        for optimizer in optimizers:
            optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        return StageResult(self.step, psnr=psnr_of(mean.pop("mse")), **mean)

    def _rate_weight(self, crops: list[Tensor]) -> float | None:
        """Equation 2's choice for the step, where one forward pass doesn't see all that it depends on."""
        if len(crops) == 1 or self.rate is None:
            return None
        with torch.no_grad():
            bits = torch.cat([self.forward(x, part).quantized_bits for part, x in enumerate(crops)])
        return self.rate.weight(bits / crops[0][0, 0].numel(), self.step)

    def _gradients_kept_here(self) -> contextlib.ExitStack:
        """In it, gradients stay in this process: those of a later micro-batch take them along."""
        stack = contextlib.ExitStack()
        for model in self._shared:
            stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def _accumulate(self, x: Tensor, part: int, stage: Stage, rate_weight: float | None) -> dict[str, Tensor]:
        """Adds a micro-batch's part of the step's gradients; returns its terms of the loss, and mse, as scalars."""
        share = 1 / self.settings.accumulation
        quality = self.qualities(part, len(x))
        out = self.forward(x, part, self._shared[0], quality)
        pixels = x[0, 0].numel()
        bpp, quantized_bpp = out.bits / pixels, out.quantized_bits / pixels
        squared = (out.x_hat - x).square().mean((1, 2, 3))
        # A decoder clamps: what it shows is judged. The squared error draws back what lies outside.
        shown = out.x_hat.clamp(0, 1)
        window = self._lpips_window(part)
        loss, distances = self.distances(x[window], shown[window], quality)
        loss = loss + along(self.settings.weights.mse, quality) * 255**2 * squared
        if self.rate is None:
            assert self.settings.rate.weights is not None
            weight = along(self.settings.rate.weights, quality) * self._lambda_factor.at(self.step)
            assert isinstance(weight, torch.Tensor)
            rate_loss, weighed = (weight * bpp).mean(), torch.as_tensor(weight).mean()
        elif rate_weight is None:
            rate_loss, found = self.rate.loss(bpp, quantized_bpp, self.step)
            weighed = torch.full_like(squared.mean(), found)
        else:
            rate_loss, weighed = rate_weight * bpp.mean(), torch.full_like(squared.mean(), rate_weight)
        loss = loss.mean() + rate_loss
        terms = {"bpp": bpp.mean(), "quantized_bpp": quantized_bpp.mean(), "mse": squared.mean()}
        terms |= {name: distance.mean() for name, distance in distances.items()}
        terms["rate_weight"] = weighed
        if stage.gan:
            gan, adversarial = self._adversarial(x, shown, out, quality)
            terms |= adversarial
            loss = loss + gan
        (share * loss).backward()
        self._examples = x[:4], shown[:4].detach()
        return {name: value.detach().float() for name, value in (terms | {"loss": loss}).items()}

    def qualities(self, part: int, n: int) -> Tensor | None:
        """Those of a micro-batch's n crops: evenly spaced from a random one on, so that every batch has low and high ones."""
        if not self.model.variable_rate:
            return None
        first = np.random.default_rng(self.seed_of(part).spawn(2)[1]).random()
        return spread_qualities(first, n, self.device)

    def _lpips_window(self, part: int) -> tuple[EllipsisType, slice, slice]:
        """Where LPIPS of a micro-batch is taken, drawn from (seed, step, micro-batch) as all else is."""
        shifts, size = self.settings.lpips_shifts, self.settings.crop - self.settings.lpips_shifts + 1
        top, left = np.random.default_rng(self.seed_of(part).spawn(1)[0]).integers(shifts, size=2)
        return ..., slice(top, top + size), slice(left, left + size)

    def _adversarial(
        self, x: Tensor, shown: Tensor, out: TrainingOutput, quality: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's weighted loss, differentiable, and both sides' figures. The discriminator's gradients are taken."""
        both = torch.cat((x, shown.detach()))
        real, fake = self._shared[1](both, out.y_hat.detach().repeat(2, 1, 1, 1)).chunk(2)
        loss = discriminator_loss(real, fake)
        (loss / self.settings.accumulation).backward()
        # Not through what shares gradients between processes: this pass has none for the discriminator.
        with _constant(self.discriminator):
            fake_logits = self.discriminator(shown, out.y_hat)
        gan = generator_loss(real, fake_logits, along(self.settings.weights.gan, quality))
        figures = {"gan": generator_loss(real, fake_logits.detach()), "discriminator": loss}
        return gan, figures | {"discriminator_accuracy": discriminator_accuracy(real, fake)}

    def trained(self) -> CodecNetwork:
        """The moving average, where the recipe has one."""
        model = super().trained()
        if self.average:
            model.load_state_dict(self.average.module.state_dict())
        return model

    def any_process(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), dtype=torch.float32, device=self.device), "sum"))

    def all_files(self) -> list[str]:
        return gather_object(self.files)

    def examples(self) -> Tensor | None:
        return None if self._examples is None else torch.cat(self._examples, 3).transpose(0, 1).flatten(1, 2)

    def about(self) -> dict[str, Any]:
        return {"recipe": self.settings.to_dict(), "steps": self.step}


@contextlib.contextmanager
def _constant(module: torch.nn.Module) -> Iterator[None]:
    """In here no parameter of a module learns, and its spectral norms' estimates stay as they are."""
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        module.requires_grad_(True).train()
