"""Optimizer steps of a network on random crops: what all training has in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dkic.errors import DkicError
from dkic.models.codec_network import CodecNetwork
from dkic.training.along_quality import spread_qualities
from dkic.training.batches import WHOLE, Batches, Share, pixels_of
from dkic.training.photos import PhotoFolder
from dkic.training.schedule import Schedule
from dkic.training.step_result import StepResult


class TrainingFailed(DkicError):
    """A run that had begun can't continue: a loss that is not finite, a full disk."""


class RunSettings(Protocol):
    """What every run is given: seed, crops per optimizer step, bound of the gradients' norm."""

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def clip_norm(self) -> float: ...


class Run(ABC):
    """A network in training, and the number of optimizer steps that were done.

    Everything random is drawn from (seed, step), so the state of a run has no generators.

    Args:
        model: on the device that computes.
        settings: see RunSettings.
        photos: where crops come from.
        schedule: the learning rate.
        steps: length of the run.
        device: what computes.
        share: which of a step's crops this process has.
        workers: processes that decode photographs, for each that trains; 0: itself.
        tell: is given sentences about photographs that can't be read.

    Attributes: `step`; `leads`, whether this process reports and writes files; `batches`; `files`, the photographs of the last
    step's crops.

    Raises:
        DkicError: a batch that can't be divided into such shares.
    """

    def __init__(
        self,
        model: CodecNetwork,
        settings: RunSettings,
        photos: PhotoFolder,
        schedule: Schedule,
        steps: int,
        *,
        device: torch.device,
        share: Share = WHOLE,
        workers: int = 0,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.model, self.photos, self.learning_rate = model, photos, schedule
        self.step, self.steps = 0, steps
        self.device, self.share, self.leads = device, share, share.process == 0
        self._settings = settings
        self.batches = Batches(photos, settings.seed, share.crops(settings.batch), workers, device.type == "cuda", tell)
        self.files: list[str] = []

    @abstractmethod
    def optimizers(self) -> Sequence[Optimizer]:
        """Those of the next step."""

    @abstractmethod
    def accumulate(self, crops: Sequence[Tensor]) -> dict[str, Tensor]:
        """Adds the gradients of the step's loss.

        Args:
            crops: see `micro_batches`.

        Returns:
            figures of the StepResult by name, float32 scalars on the device, loss, bpp and quantized_bpp at least; the same on
            every process.
        """

    def train_step(self) -> StepResult:
        """One optimizer step. A loss or gradient that is not finite raises TrainingFailed before a weight is changed.

        The host waits for the device once, between the gradients and the optimizers' steps.
        """
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate.at(self.step)
        measured = self.accumulate(self.micro_batches())
        norms = [self._clip(optimizer) for optimizer in optimizers]
        values = torch.stack([*measured.values(), *norms]).tolist()
        figures = dict(zip(measured, values, strict=False))
        self._check_finite("loss", figures["loss"])
        for norm in values[len(measured) :]:
            self._check_finite("gradient", norm)
        for optimizer in optimizers:
            optimizer.step()
        self.step += 1
        return StepResult(self.step, **figures)

    def micro_batches(self) -> list[Tensor]:
        """This process' crops of the step, `[n, 3, crop, crop]` each; `files` are theirs."""
        found = self.batches.of(self.step)
        self.files = [file for crops in found for file in crops.files]
        return [pixels_of(crops, self.device) for crops in found]

    def seed_of(self, part: int) -> np.random.SeedSequence:
        """What the random numbers of the step's micro-batch of this number come from."""
        return np.random.SeedSequence((self._settings.seed, self.step, self.share.number(part)))

    def noise(self, part: int) -> torch.Generator:
        """What the noise of the latent of the step's micro-batch of this number comes from."""
        seed = self.seed_of(part).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))

    def qualities(self, part: int, n: int) -> Tensor | None:
        """`[n]`, those of a micro-batch's n crops: evenly spaced from a random one on, so that every batch has low and high ones.

        None for a model of one quality.
        """
        if not self.model.variable_rate:
            return None
        first = np.random.default_rng(self.seed_of(part).spawn(2)[1]).random()
        return spread_qualities(first, n, self.device)

    def any_process(self, flag: bool) -> bool:
        """Whether it is true on any of the processes."""
        return flag

    def all_files(self) -> list[str]:
        """The photographs of the step's crops, on all processes."""
        return self.files

    def _clip(self, optimizer: Optimizer) -> Tensor:
        """Bounds the norm of an optimizer's gradients; returns what it was, a float32 scalar on the device."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self._settings.clip_norm).to(self.device, torch.float32)

    def _check_finite(self, what: str, value: float) -> None:
        """TrainingFailed, on all processes alike, where a loss or the norm of a gradient is not finite."""
        if not math.isfinite(value):
            crops = f"on crops of {', '.join(sorted(set(self.all_files())))}"
            raise TrainingFailed(f"step {self.step}: the {what} is {value} {crops}; train anew with a lower learning rate")
