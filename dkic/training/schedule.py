"""Learning rates over a run."""

import math


def cosine(step: int, steps: int, last: float = 0.01) -> float:
    """Factor that falls from 1 at step 0 to `last` at the end of `steps`, along a half cosine."""
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
