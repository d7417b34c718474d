"""Base class of training runs: optimizer steps of a network on random crops."""

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
    """A started run can't continue: a loss or gradient is not finite, or files can't be written."""


class RunSettings(Protocol):
    """Settings of every run.

    Attributes:
        seed: seed of crops and noise.
        batch: crops per optimizer step, over all processes.
        clip_norm: maximum norm of the gradients of each optimizer.
    """

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def clip_norm(self) -> float: ...


class Run(ABC):
    """A training run of a network.

    Random numbers are derived from (seed, step), so checkpoints contain no generator states.

    Args:
        model: network on `device`.
        settings: see `RunSettings`.
        photos: source of the crops.
        schedule: learning rate by step.
        steps: number of optimizer steps.
        device: device of the network.
        share: micro-batches of this process.
        workers: worker processes that decode photographs, per training process; 0 decodes in the training process.
        warn: called once with a message for each photograph that can't be read.

    Attributes:
        step: number of completed optimizer steps.
        leads: whether this is the main process, which reports and writes files.
        batches: the crops of this process; see `Batches`.
        files: paths of the photographs of the last step's crops.

    Raises:
        DkicError: the batch can't be divided among the processes and their micro-batches.
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
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.model, self.photos, self.learning_rate = model, photos, schedule
        self.step, self.steps = 0, steps
        self.device, self.share, self.leads = device, share, share.process == 0
        self._settings = settings
        self.batches = Batches(photos, settings.seed, share.crops(settings.batch), workers, device.type == "cuda", warn)
        self.files: list[str] = []

    @abstractmethod
    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers of the next step."""

    @abstractmethod
    def accumulate(self, crops: Sequence[Tensor]) -> dict[str, Tensor]:
        """Computes the loss of a step and accumulates its gradients.

        Args:
            crops: micro-batches of this process; see `micro_batches`.

        Returns:
            Fields of `StepResult` by name, at least loss, bpp and quantized_bpp: float32 scalars on the device, equal on all
            processes.
        """

    def train_step(self) -> StepResult:
        """Runs one optimizer step and returns its result.

        The host synchronizes with the device once, after the backward pass and before the weights are updated.

        Raises:
            TrainingFailed: the loss or a gradient norm is not finite; the weights are unchanged.
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
        """This process's micro-batches of the step, float32 `[n, 3, crop, crop]` in [0, 1]; sets `files`."""
        found = self.batches.of(self.step)
        self.files = [file for crops in found for file in crops.files]
        return [pixels_of(crops, self.device) for crops in found]

    def seed_of(self, part: int) -> np.random.SeedSequence:
        """Seed of the random numbers of the current step's micro-batch `part`."""
        return np.random.SeedSequence((self._settings.seed, self.step, self.share.number(part)))

    def noise(self, part: int) -> torch.Generator:
        """Generator, on the device, of the latent's noise for the current step's micro-batch `part`."""
        seed = self.seed_of(part).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))

    def qualities(self, part: int, n: int) -> Tensor | None:
        """Qualities `[n]` of the n crops of micro-batch `part`; None if the model has one quality.

        They are evenly spaced with a random offset, so that each micro-batch contains low and high qualities.
        """
        if not self.model.variable_rate:
            return None
        first = np.random.default_rng(self.seed_of(part).spawn(2)[1]).random()
        return spread_qualities(first, n, self.device)

    def any_process(self, flag: bool) -> bool:
        """Whether `flag` is true on any process."""
        return flag

    def all_files(self) -> list[str]:
        """Paths of the photographs of the step's crops on all processes."""
        return self.files

    def _clip(self, optimizer: Optimizer) -> Tensor:
        """Clips the gradient norm of an optimizer's parameters; returns the norm before, a float32 scalar on the device."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, self._settings.clip_norm).to(self.device, torch.float32)

    def _check_finite(self, what: str, value: float) -> None:
        """Raises `TrainingFailed` if a loss or gradient norm is not finite; `value` must be equal on all processes."""
        if not math.isfinite(value):
            crops = f"on crops of {', '.join(sorted(set(self.all_files())))}"
            raise TrainingFailed(f"step {self.step}: the {what} is {value} {crops}; restart with a lower learning rate")
