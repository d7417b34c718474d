"""PO-DKIC's training in stages, equations 1 to 5 of the paper: distortion at a rate, then with a discriminator."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dkic.errors import DkicError
from dkic.losses.lpips import LPIPS
from dkic.losses.rate_target import RateTarget, StepSchedule
from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss
from dkic.models.discriminator import Discriminator
from dkic.models.dkic import TrainingOutput
from dkic.training.photos import PhotoFolder
from dkic.training.recipe import Recipe, Stage
from dkic.training.run import Run, StepResult, psnr_of

# Left at the end of the first stage: runs at other rates can start from it.
WARMED_UP = "warmed_up.pt"


@dataclass(frozen=True)
class StageResult(StepResult):
    """More figures of a step: equation 2's rate and choice of lambda, and the terms of equations 3 and 5.

    bpp is of the noisy latent, quantized_bpp what files would have. NaN where there is no discriminator.
    """

    quantized_bpp: float
    rate_weight: float
    lpips: float
    gan: float = math.nan
    discriminator: float = math.nan
    discriminator_accuracy: float = math.nan

    def __str__(self) -> str:
        text = f"bpp {self.quantized_bpp:.3f}, PSNR {self.psnr:.2f} dB, LPIPS {self.lpips:.3f}"
        return text if math.isnan(self.gan) else f"{text}, D right in {self.discriminator_accuracy:.0%}"


class StagedRun(Run):
    """A recipe's run.

    In a stage with a discriminator, both sides' gradients are taken at the same weights and then both are stepped.

    Args:
        recipe: see Recipe.
        photos: where crops come from.
        lpips_backbone: see `dkic.losses.lpips.LPIPS`.
    """

    kind, advice, result_type = "recipe", "learning rate", StageResult
    settings: Recipe

    def __init__(self, recipe: Recipe, photos: PhotoFolder, lpips_backbone: str | Path | None = None) -> None:
        super().__init__(recipe, photos)
        self.discriminator = Discriminator(self.config.latent_channels, recipe.discriminator_width)
        self.discriminator.to(memory_format=torch.channels_last)
        rate = recipe.learning_rate.values[0]
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), rate)
        for name in ("optimizer", "discriminator", "discriminator_optimizer"):
            self.parts[name] = getattr(self, name)
        self.lpips = LPIPS(recipe.lpips_net, lpips_backbone)

        epoch = recipe.epoch_steps or max(1, len(photos.paths) // recipe.batch)
        self._ends = [epoch * epochs for epochs in accumulate(stage.epochs for stage in recipe.stages)]
        self.steps = self._ends[-1]
        if len(recipe.stages) > 1:
            self.milestones = {self._ends[0]: WARMED_UP}
        self.learning_rate = StepSchedule(
            tuple(recipe.learning_rate.values), tuple(epoch * epochs for epochs in recipe.learning_rate.epochs)
        )
        self.rate = RateTarget(
            recipe.rate.target,
            recipe.rate.lambda_alpha,
            recipe.rate.lambda_beta,
            StepSchedule(tuple(stage.target_factor for stage in recipe.stages), tuple(self._ends[:-1])),
            StepSchedule(tuple(stage.lambda_factor for stage in recipe.stages), tuple(self._ends[:-1])),
        )

    @property
    def stage(self) -> Stage:
        """That of the next step; the last one where all are done."""
        number = sum(self.step >= end for end in self._ends[:-1])
        return self.settings.stages[number]

    def start_from(self, state: dict[str, Any]) -> None:
        """Begin at the second stage, with the model and its optimiser as the first stage of another run left them."""
        if len(self.settings.stages) < 2:
            raise DkicError("to start from another run's first stage, a recipe needs a second one")
        self.restore_parts(state, "model", "optimizer")
        self.step = self._ends[0]

    def train_step(self) -> StageResult:
        weights, stage = self.settings.weights, self.stage
        for optimizer in (self.optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate.at(self.step)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not stage.freeze or name.startswith("g_s."))

        x, out = self.batch()
        pixels = x[0, 0].numel()
        bpp, quantized_bpp = out.bits / pixels, out.quantized_bits / pixels
        mse = (out.x_hat - x).square().mean()
        # A decoder clamps: what it shows is judged. The squared error draws back what lies outside.
        shown = out.x_hat.clamp(0, 1)
        lpips = self.lpips(x, shown).mean()
        rate_loss, rate_weight = self.rate.loss(bpp, quantized_bpp, self.step)
        loss = weights.mse * 255**2 * mse + weights.lpips * lpips + rate_loss
        adversarial = self._adversarial(x, shown, out) if stage.gan else {}
        if stage.gan:
            loss = loss + weights.gan * adversarial["gan"]
        self.gradients(loss, self.model, self.optimizer)
        self.optimizer.step()
        if stage.gan:
            self.discriminator_optimizer.step()
        self.step += 1
        return StageResult(
            self.step,
            loss.item(),
            bpp.mean().item(),
            psnr_of(mse),
            quantized_bpp.mean().item(),
            rate_weight,
            lpips.item(),
            **{name: value.item() for name, value in adversarial.items()},
        )

    def _adversarial(self, x: Tensor, shown: Tensor, out: TrainingOutput) -> dict[str, Tensor]:
        """Both sides' losses. The discriminator's gradients are taken; the generator's loss is differentiable."""
        real, fake = self.discriminator(torch.cat((x, shown.detach())), out.y_hat.repeat(2, 1, 1, 1)).chunk(2)
        loss = discriminator_loss(real, fake)
        accuracy = discriminator_accuracy(real, fake)
        self.gradients(loss, self.discriminator, self.discriminator_optimizer)
        with _constant(self.discriminator):
            gan = generator_loss(real, self.discriminator(shown, out.y_hat))
        return {"gan": gan, "discriminator": loss, "discriminator_accuracy": accuracy}

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
