"""Training with a recipe: rate-distortion optimization in stages, optionally with a discriminator (PO-DKIC, Eqs. 1 to 5)."""

import contextlib
import copy
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
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dkic.errors import DkicError
from dkic.models import PRESETS, network_of
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.training.adversary import Adversary
from dkic.training.along_quality import along
from dkic.training.batches import Share
from dkic.training.compiled import compile_networks
from dkic.training.distances import Distances
from dkic.training.muon import ConvMuon, matrices_of
from dkic.training.photos import PhotoFolder
from dkic.training.processes import autocast_transforms
from dkic.training.rate_term import RateTerm
from dkic.training.recipe import Recipe, Stage
from dkic.training.run import Run
from dkic.training.stage_schedule import StageSchedule
from dkic.training.step_result import StepResult, psnr_of


class StagedRun(Run):
    """Training run of a recipe, in one process or in several under torchrun, which share the global batch.

    In a stage with a discriminator, the gradients of the codec and the discriminator are computed at the same weights; then both
    optimizers step. Losses and the rate of Eq. 2 are means over the global batch. The means of the relativistic GAN's logits are
    over one micro-batch on all processes.

    Args:
        recipe: see `Recipe`.
        photos: source of the crops.
        accelerator: see `processes.accelerator_for`.
        lpips_backbone: see `dkic.losses.lpips.LPIPS`.
        workers, warn: see `Run`.

    Attributes:
        recipe: the recipe.
        schedule: its stages by step.
        optimizer, muon: Adam, and Muon for the weights that the recipe gives it, or None.
        rate: rate term of the loss.
        distances: perceptual metrics of the loss.
        adversary: the discriminator; None if no stage has one.
        average: moving average of the weights; None if the recipe has no `ema`.
        parts: modules and optimizers, by name, whose states are in a checkpoint.

    Raises:
        DkicError: a micro-batch has fewer crops than DISTS and LPIPS-VGG need, or weights of a metric are missing; or see `Run`.
    """

    def __init__(
        self,
        recipe: Recipe,
        photos: PhotoFolder,
        accelerator: Accelerator,
        lpips_backbone: str | Path | None = None,
        *,
        workers: int = 0,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        _check_vgg_crops(recipe, accelerator.num_processes)
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
            warn=warn,
        )
        matrices = list(matrices_of(self.model.transforms())) if recipe.optimizer == "muon" else []
        adams = set(self.model.parameters()) - {weight for weight, _ in matrices}
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p in adams], fused=True)
        self.parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        self.muon: ConvMuon | None = None
        if matrices:
            self.muon = self.parts["muon"] = ConvMuon(matrices)
        self.adversary: Adversary | None = None
        if any(stage.gan for stage in recipe.stages):
            channels = self.config.latent_channels
            self.adversary = Adversary(channels, recipe.discriminator_width, recipe.accumulation, accelerator)
            self.parts["discriminator"] = self.adversary.discriminator
            self.parts["discriminator_optimizer"] = self.adversary.optimizer
        # Not torch's AveragedModel, whose counter is copied to the GPU in each step, which makes the host wait.
        self.average: CodecNetwork | None = None
        if recipe.ema is not None:
            self.average = copy.deepcopy(self.model).requires_grad_(False)
            self._move_average = get_ema_multi_avg_fn(recipe.ema)
            self.parts["average"] = self.average
        if recipe.precision == "bfloat16":
            autocast_transforms(self.model, self.device)
        self._shared_model = accelerator.prepare_model(self.model)
        self.distances = Distances(recipe, lpips_backbone).to(self.device)
        if recipe.compile:
            compile_networks([self.model.g_a, self.model.g_s, *self.distances.networks.values()], device)
        self.rate = RateTerm(recipe.rate, self.schedule)
        self._examples: tuple[Tensor, Tensor] | None = None

    def new_model(self) -> CodecNetwork:
        """A newly initialized model with the recipe's architecture, float32, on the CPU."""
        with torch.device("cpu"):
            return network_of(self.config).float()

    def trained(self) -> CodecNetwork:
        """A copy of the model to save, on the CPU; it has the averaged weights if the recipe has `ema`."""
        model = self.new_model()
        model.load_state_dict((self.average or self.model).state_dict())
        return model

    def start_with(self, model: CodecNetwork) -> None:
        """Initializes the run, including the moving average, with the weights of a trained model.

        Raises:
            DkicError: the architecture differs from the recipe's.
        """
        if model.config != self.model.config:
            raise DkicError(f"weights: must have the shape of {self.recipe.preset}")
        self.model.load_state_dict(model.state_dict())
        if self.average:
            self.average.load_state_dict(model.state_dict())

    @property
    def stage(self) -> Stage:
        """Stage of the next step; the last stage after the last step."""
        return self.schedule.stage_at(self.step)

    def optimizers(self) -> Sequence[Optimizer]:
        found: list[Optimizer] = [self.optimizer]
        if self.muon:
            found.append(self.muon)
        if self.stage.gan and self.adversary:
            found.append(self.adversary.optimizer)
        return found

    def train_step(self) -> StepResult:
        if self.recipe.compile:
            torch.compiler.cudagraph_mark_step_begin()  # allows the graphs to reuse the memory of the previous step's outputs
        frozen = self.stage.freeze
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("g_s."))
        with self.adversary.restored_on_failure() if self.adversary else contextlib.nullcontext():
            result = super().train_step()
        if self.average:
            self._move_average(list(self.average.parameters()), list(self.model.parameters()), None)
        return result

    def accumulate(self, crops: Sequence[Tensor]) -> dict[str, Tensor]:
        rate_weight = self._rate_weight(crops)
        figures = []
        for part, x in enumerate(crops):
            with self._no_sync() if part + 1 < len(crops) else contextlib.nullcontext():
                figures.append(self._accumulate(x, part, rate_weight))
        means = torch.stack([torch.stack(list(f.values())) for f in figures]).mean(0)
        mean = dict(zip(figures[0], self.accelerator.reduce(means, "mean"), strict=True))
        return mean | {"psnr": psnr_of(mean.pop("mse"))}

    def _rate_weight(self, crops: Sequence[Tensor]) -> Tensor | None:
        """Rate weight of Eq. 2 for the step if there are several micro-batches; it depends on the rate of all of them."""
        if len(crops) == 1 or self.rate.target is None:
            return None
        with torch.no_grad():
            bits = torch.cat([self.forward(x, part).quantized_bits for part, x in enumerate(crops)])
        return self.rate.weight(bits / crops[0][0, 0].numel(), None, self.step)

    def _no_sync(self) -> contextlib.ExitStack:
        """Context manager that defers the gradient all-reduce to a later micro-batch."""
        stack = contextlib.ExitStack()
        for model in [self._shared_model] + ([self.adversary.shared] if self.adversary else []):
            stack.enter_context(self.accelerator.no_sync(model))
        return stack

    def _accumulate(self, x: Tensor, part: int, rate_weight: Tensor | None) -> dict[str, Tensor]:
        """Accumulates the gradients of micro-batch `part`; returns its loss, loss terms and mse as float32 scalars."""
        weights = self.recipe.weights
        quality = self.qualities(part, len(x))
        out = self.forward(x, part, quality)
        pixels = x[0, 0].numel()
        bpp, quantized_bpp = out.bits / pixels, out.quantized_bits / pixels
        squared = (out.x_hat - x).square().mean((1, 2, 3))
        # Metrics see clamped values, as a decoder outputs them. The MSE has a gradient outside [0, 1] too.
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
        """Runs the model on micro-batch `part`: crops `[n, 3, crop, crop]`, qualities `[n]` (None: a model of one quality)."""
        noise = self.noise(part)
        return self._shared_model(x, noise) if quality is None else self._shared_model(x, noise, quality)

    def lpips_window(self, part: int) -> tuple[EllipsisType, slice, slice]:
        """Index of the window of micro-batch `part` on which distances are computed; random by (seed, step, micro-batch)."""
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
        """Image `[3, H, W]` in [0, 1] of up to four crops of the last step and, to the right, their reconstructions.

        None before the first step.
        """
        return None if self._examples is None else torch.cat(self._examples, 3).transpose(0, 1).flatten(1, 2)

    def about(self) -> dict[str, Any]:
        """Description of the run, for the metadata of the weights file."""
        photographs = len(self.photos.paths) - len(self.batches.unreadable)
        return {"recipe": self.recipe.to_dict(), "steps": self.step, "photographs": photographs}


def _check_vgg_crops(recipe: Recipe, processes: int) -> None:
    share = recipe.batch // (recipe.accumulation * processes)
    if recipe.vgg_crops_total > share:
        raise DkicError(
            f"vgg_crops: DISTS and LPIPS-VGG need {recipe.vgg_crops_total} crops per micro-batch and process, which has {share}; "
            "use fewer processes, a larger batch or less accumulation"
        )
