"""The stage, learning rate and rate factors of each step of a recipe."""

from itertools import accumulate

from dkic.losses.rate_target import StepSchedule
from dkic.training.recipe import Recipe, Stage
from dkic.training.schedule import CosineSchedule, Schedule


class StageSchedule:
    """A recipe's schedule in steps instead of epochs.

    Args:
        recipe: see `Recipe`.
        photographs: number of photographs, which determines the steps per epoch if the recipe has no `epoch_steps`.

    Attributes:
        steps: number of steps of the run.
        ends: step at which each stage ends.
        learning_rate: learning rate by step.
        target_factor: factor of the target rate by step.
        lambda_factor: factor of the rate weight by step.
    """

    def __init__(self, recipe: Recipe, photographs: int) -> None:
        epoch = recipe.epoch_steps or max(1, photographs // recipe.batch)
        self._stages, self._epoch = recipe.stages, epoch
        self.ends = [epoch * epochs for epochs in accumulate(stage.epochs for stage in recipe.stages)]
        self.steps = self.ends[-1]
        changes = tuple(self.ends[:-1])
        self.target_factor = StepSchedule(tuple(stage.target_factor for stage in recipe.stages), changes)
        self.lambda_factor = StepSchedule(tuple(stage.lambda_factor for stage in recipe.stages), changes)
        rate = recipe.learning_rate
        self.learning_rate: Schedule
        if rate.peak is not None:
            self.learning_rate = CosineSchedule(rate.peak, self.steps, rate.warmup_steps)
        else:
            self.learning_rate = StepSchedule(tuple(rate.values), tuple(epoch * epochs for epochs in rate.epochs))

    def stage_at(self, step: int) -> Stage:
        """Stage of a step; the last stage after the end of the run."""
        return self._stages[self._index(step)]

    def gan_factor(self, step: int) -> float:
        """Factor of the weight of the GAN loss at a step: 1, or in (0, 1] with `gan_ramp_epochs`."""
        index = self._index(step)
        ramp = self._epoch * self._stages[index].gan_ramp_epochs
        done = step + 1 - (self.ends[index - 1] if index else 0)
        return min(1.0, done / ramp) if ramp else 1.0

    def _index(self, step: int) -> int:
        return sum(step >= end for end in self.ends[:-1])
