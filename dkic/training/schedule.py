"""Learning rates over a run."""

import math
from dataclasses import dataclass
from typing import Protocol

_LAST = 0.02  # of the peak, at the end


class Schedule(Protocol):
    """A number that depends on the step."""

    def at(self, step: int) -> float:
        """The number at a step; steps count from 0."""


@dataclass(frozen=True)
class CosineSchedule:
    """Rises linearly to `peak` over `warmup_steps`, and falls to 2 % of it at `steps` along a half cosine over the whole run."""

    peak: float
    steps: int
    warmup_steps: int = 0

    def at(self, step: int) -> float:
        """The learning rate at a step; steps count from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.peak * min(1.0, (step + 1) / (self.warmup_steps + 1)) * (_LAST + (1 - _LAST) * cosine)
