"""Rates between and beyond a model's quality levels: every level at several steps of quantisation, in rising order of rate.

A level was trained for step 0; each step up saves about a tenth of the bits. In the mean of eleven held-out photographs level 3
of `tiny` has 0.136 bits per pixel and LPIPS 0.148 at step 0, 0.170 and 0.137 at -2; level 4 has 0.232 and 0.096 at 0, 0.193 and
0.108 at 2, 0.162 and 0.126 at 4. So steps do between levels what a level trained for the rate would do. Neighbouring rungs are at
most 19 % apart. `python -m benchmarks.rungs PHOTOS` measures it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dkic.entropy.quantization import PARTS

# At more than 3 the next lower level at -2 takes about as many bits.
BETWEEN = (3, 2, 1, 0, -1, -2)
BELOW = (4,)  # the lowest level goes further down (still coarser steps save it nothing),
ABOVE = (-3, -4)  # and the highest up


class Rung(NamedTuple):
    """A quality and a step, as `Codec.compress` has them."""

    quality: int
    step: int

    def __str__(self) -> str:
        return f"quality {self.quality}{f' step {self.step:+}' if self.step else ''}"


def ladder(qualities: Sequence[int]) -> list[Rung]:
    """Levels in rising order -> rungs, nearly in rising order of rate."""
    lowest, highest = [Rung(qualities[0], step) for step in BELOW], [Rung(qualities[-1], step) for step in ABOVE]
    return [*lowest, *(Rung(quality, step) for quality in qualities for step in BETWEEN), *highest]


# Of a variable-rate model's qualities, one in so many is measured first, and then one in so many near the best choice.
_MEASURED, _CHOSEN = 9, 3


def every_operating_point(qualities: Sequence[int]) -> list[Rung]:
    """Qualities of a variable-rate model, all and in rising order -> its operating points, about 0.2 % of the rate apart."""
    half = PARTS // 2
    rungs = [Rung(quality, step) for quality in qualities for step in range(half - 1, -half - 1, -1)]
    return [rung for rung in rungs if qualities[0] <= rung.quality - rung.step / PARTS <= qualities[-1]]


def measured_first(qualities: Sequence[int]) -> list[Rung]:
    """Those of a variable-rate model at which an image is measured to begin with."""
    return [Rung(quality, 0) for quality in qualities[::_MEASURED]]


def chosen_among(qualities: Sequence[int]) -> list[Rung]:
    """Those of a variable-rate model among which images of a common target choose."""
    return [Rung(quality, 0) for quality in qualities[::_CHOSEN]]


def last_within(n: int, within: Callable[[int], bool]) -> int:
    """The last of n rungs that is within a target, or -1; by bisection, as if all below one that is were so too."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low
