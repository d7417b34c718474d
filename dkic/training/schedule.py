"""Learning-rate schedules."""

import math
from dataclasses import dataclass
from typing import Protocol

_LAST = 0.02  # final learning rate as a fraction of the peak


class Schedule(Protocol):
    """A value that depends on the step."""

    def at(self, step: int) -> float:
        """Value at a step, counted from 0."""


@dataclass(frozen=True)
class CosineSchedule:
    """Half-cosine decay from `peak` to 2 % of it over `steps`, with linear warmup.

    Attributes:
        peak: peak learning rate.
        steps: number of steps of the run; the learning rate is constant afterwards.
        warmup_steps: steps of the warmup, which scales the cosine.
    """

    peak: float
    steps: int
    warmup_steps: int = 0

    def at(self, step: int) -> float:
        """Learning rate at a step, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.peak * min(1.0, (step + 1) / (self.warmup_steps + 1)) * (_LAST + (1 - _LAST) * cosine)
