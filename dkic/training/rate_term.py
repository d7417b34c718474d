"""The rate term of a recipe's loss."""

import torch
from torch import Tensor

from dkic.losses.rate_target import RateTarget
from dkic.training.along_quality import along
from dkic.training.recipe import Rate
from dkic.training.stage_schedule import StageSchedule


class RateTerm:
    """Weight of the rate: lambda(R, R*) of Eq. 2 of the paper, or a constant that may depend on the quality.

    Args:
        rate: rate settings of the recipe.
        stages: provides the stages' factors.

    Attributes:
        target: Eq. 2; None if the recipe has a constant weight.
    """

    def __init__(self, rate: Rate, stages: StageSchedule) -> None:
        self._weight, self._factor = rate.weight, stages.lambda_factor
        self.target: RateTarget | None = None
        if rate.target is not None:
            assert rate.lambda_alpha is not None and rate.lambda_beta is not None
            self.target = RateTarget(rate.target, rate.lambda_alpha, rate.lambda_beta, stages.target_factor, stages.lambda_factor)

    def weight(self, quantized_bpp: Tensor, quality: Tensor | None, step: int) -> Tensor:
        """Returns the weight of the rate: `[N]` if it depends on the quality, else `[1]`.

        Args:
            quantized_bpp: rate of each image with a rounded latent, in bits per pixel, `[N]`.
            quality: quality of each image, `[N]`; None for a model of one quality.
            step: step of the run, which selects the stage's factors.
        """
        if self.target is not None:
            return self.target.weight(quantized_bpp, step).reshape(1)
        assert self._weight is not None
        weight = along(self._weight, quality) * self._factor.at(step)
        return weight if isinstance(weight, Tensor) else torch.full_like(quantized_bpp[:1], weight)
