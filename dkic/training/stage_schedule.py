"""What a recipe prescribes for each step: the stage, the learning rate, the factors on the rate."""

from itertools import accumulate

from dkic.losses.rate_target import StepSchedule
from dkic.training.recipe import Recipe, Stage
from dkic.training.schedule import CosineSchedule, Schedule


class StageSchedule:
    """A recipe's epochs in steps.

    Args:
        recipe: see Recipe.
        photographs: how many there are, from which the length of an epoch follows where the recipe has no `epoch_steps`.

    Attributes: `steps`, the run's length; `ends`, the step at which each stage ends; `learning_rate`; `target_factor` and
    `lambda_factor`, those of the stages.
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
        """The stage of a step; the last one from the run's end on."""
        return self._stages[self._index(step)]

    def gan_factor(self, step: int) -> float:
        """Of the discriminator's weight: 1, and in a stage that begins with a ramp from near 0 to 1."""
        index = self._index(step)
        ramp = self._epoch * self._stages[index].gan_ramp_epochs
        done = step + 1 - (self.ends[index - 1] if index else 0)
        return min(1.0, done / ramp) if ramp else 1.0

    def _index(self, step: int) -> int:
        return sum(step >= end for end in self.ends[:-1])
