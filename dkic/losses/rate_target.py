"""The rate term of the loss, equations 1 and 2 of the paper, after HiFiC (Mentzer et al. 2020).

The weight of the rate is large above a target rate and small below it, so training converges to the target.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from dkic.errors import DkicError
from dkic.losses.global_mean import global_mean


@dataclass(frozen=True)
class StepSchedule:
    """A piecewise constant factor: factors[i] before step steps[i], and the last factor from the last step on.

    Raises:
        DkicError: there is not one factor more than steps, a factor is not positive, or steps are not increasing.
    """

    factors: tuple[float, ...] = (1.0,)
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.steps) + 1 or not all(f > 0 and math.isfinite(f) for f in self.factors):
            given = f"{self.factors} for steps {self.steps}"
            raise DkicError(f"StepSchedule/factors: are {given}; give one factor more than steps, all above 0")
        if any(b <= a for a, b in zip((0, *self.steps), self.steps, strict=False)):
            raise DkicError(f"StepSchedule/steps: are {self.steps}; give increasing numbers above 0")

    def at(self, step: int) -> float:
        """The factor at a step; steps count from 0."""
        return self.factors[bisect_right(self.steps, step)]


@dataclass(frozen=True)
class RateTarget:
    """lambda(R, R*) * R of equation 1: lambda_alpha if R >= R*, the target, otherwise the much smaller lambda_beta.

    The compared R is the rate of the quantized latent, as in a file, over the global batch; the gradient is that of the rate
    with noise. With a sufficiently large lambda_alpha, training converges to the target.

    Args:
        target: R*, bits per pixel.
        lambda_alpha, lambda_beta: weights of the rate, 0 <= lambda_beta < lambda_alpha.
        target_schedule, lambda_schedule: factors of the target and of both weights over the steps. HiFiC uses 0.20/0.14 and 2
            for the first 50,000 steps. (HiFiC's released code divides by its lambda; here lambda multiplies the rate, as in
            equation 1.)

    Raises:
        DkicError: a number is out of range.
    """

    target: float
    lambda_alpha: float
    lambda_beta: float
    target_schedule: StepSchedule = StepSchedule()
    lambda_schedule: StepSchedule = StepSchedule()

    def __post_init__(self) -> None:
        for name in ("target", "lambda_alpha"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise DkicError(f"{name}: is {getattr(self, name)}; give a number above 0")
        if not 0 <= self.lambda_beta < self.lambda_alpha:
            raise DkicError(f"lambda_beta: is {self.lambda_beta}; give 0 or more, below lambda_alpha ({self.lambda_alpha})")

    def target_at(self, step: int) -> float:
        """R* at a step, bits per pixel."""
        return self.target * self.target_schedule.at(step)

    def weight(self, quantized_bpp: Tensor, step: int) -> Tensor:
        """lambda(R, R*), equation 2, a scalar, the same on every process. The host does not wait for it.

        Args:
            quantized_bpp: bits per pixel of this process' images with a rounded latent, any shape.
            step: number of steps done before, for the schedules.
        """
        mean, factor = global_mean(quantized_bpp.detach().double()), self.lambda_schedule.at(step)
        alpha, beta = (torch.full_like(mean, weight * factor) for weight in (self.lambda_alpha, self.lambda_beta))
        return torch.where(mean >= self.target_at(step), alpha, beta).to(quantized_bpp.dtype)

    def loss(self, noisy_bpp: Tensor, quantized_bpp: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss lambda(R, R*) * R as a scalar, where R is the mean of noisy_bpp over this process' images; and lambda(R, R*).

        Args:
            noisy_bpp, quantized_bpp: bits per pixel of every image `[N]`, with noise and with rounding.
            step: number of steps done before, for the schedules.

        Raises:
            ValueError: the shapes differ, or there is no image.
        """
        if noisy_bpp.shape != quantized_bpp.shape or noisy_bpp.numel() == 0:
            given = f"{list(noisy_bpp.shape)} and {list(quantized_bpp.shape)}"
            raise ValueError(f"RateTarget: noisy_bpp and quantized_bpp have shapes {given}; give the images' rates [N]")
        weight = self.weight(quantized_bpp, step)
        return weight * noisy_bpp.mean(), weight
