"""The rate term of the loss, equations 1 and 2 of the paper, after HiFiC (Mentzer et al. 2020).

Two weights of the rate, chosen by whether it is above a target, steer training to that target.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

from torch import Tensor

from dkic.errors import DkicError
from dkic.losses.global_mean import global_mean


@dataclass(frozen=True)
class StepSchedule:
    """A piecewise constant factor: factors[i] until step steps[i], then the last one."""

    factors: tuple[float, ...] = (1.0,)
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.steps) + 1 or not all(f > 0 and math.isfinite(f) for f in self.factors):
            given = f"{self.factors} and {self.steps}"
            raise DkicError(f"a schedule needs one factor more than steps, all above 0; not {given}")
        if any(b <= a for a, b in zip((0, *self.steps), self.steps, strict=False)):
            raise DkicError(f"a schedule's steps must rise from above 0, not {self.steps}")

    def at(self, step: int) -> float:
        """The factor at a step; steps count from 0."""
        return self.factors[bisect_right(self.steps, step)]


@dataclass(frozen=True)
class RateTarget:
    """lambda(R, R*) * R of equation 1: lambda_alpha if R >= R*, the target, otherwise the much smaller lambda_beta.

    R is compared as the rate of the quantized latent, as in a file, over the global batch; the
    gradient is that of the noisy rate. With a sufficiently large lambda_alpha, training converges to the target.

    target: R*, bits per pixel. target_schedule, lambda_schedule: factors on the target and on both lambdas over the
    steps; training begins with a looser target and a larger lambda. (HiFiC: 0.20/0.14 and 2 for the first 50,000 steps.
    Its released code divides by what it calls lambda, and doubles that; here lambda multiplies the rate, as in Eq. 1.)
    """

    target: float
    lambda_alpha: float
    lambda_beta: float
    target_schedule: StepSchedule = StepSchedule()
    lambda_schedule: StepSchedule = StepSchedule()

    def __post_init__(self) -> None:
        for name in ("target", "lambda_alpha"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise DkicError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.lambda_beta < self.lambda_alpha:
            within = f"at least 0 and below lambda_alpha ({self.lambda_alpha})"
            raise DkicError(f"lambda_beta must be {within}, not {self.lambda_beta}")

    def target_at(self, step: int) -> float:
        """R* at a step, bits per pixel."""
        return self.target * self.target_schedule.at(step)

    def weight(self, quantized_bpp: Tensor, step: int) -> float:
        """lambda(R, R*), equation 2, the same on every process.

        Args:
            quantized_bpp: bits per pixel of this process' images with a rounded latent, any shape.
            step: steps done before, for the schedules.
        """
        above = global_mean(quantized_bpp.detach().double()).item() >= self.target_at(step)
        return (self.lambda_alpha if above else self.lambda_beta) * self.lambda_schedule.at(step)

    def loss(self, noisy_bpp: Tensor, quantized_bpp: Tensor, step: int) -> tuple[Tensor, float]:
        """lambda(R, R*) * R as a scalar, R the mean of noisy_bpp over this process' images; and lambda(R, R*).

        Args:
            noisy_bpp, quantized_bpp: bits per pixel of every image `[N]`, with noise and with rounding.
            step: steps done before, for the schedules.
        """
        if noisy_bpp.shape != quantized_bpp.shape or noisy_bpp.numel() == 0:
            given = f"{list(noisy_bpp.shape)} and {list(quantized_bpp.shape)}"
            raise ValueError(f"noisy_bpp and quantized_bpp must be the images' rates `[N]`, and have shapes {given}")
        weight = self.weight(quantized_bpp, step)
        return weight * noisy_bpp.mean(), weight
