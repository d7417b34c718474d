"""Operating points: a quality and a qstep, a finer control of the quantizer, in rising order of rate.

A model of several networks was trained for qstep 0; each qstep up saves about a tenth of the bits. In the mean of eleven held-out
photographs quality 3 of `tiny` has 0.136 bits per pixel and LPIPS 0.148 at qstep 0, 0.170 and 0.137 at -2; quality 4 has 0.232
and 0.096 at 0, 0.193 and 0.108 at 2, 0.162 and 0.126 at 4. So qsteps do what a network trained for the rate between would do.
Neighbouring points are at most 19 % apart (`python -m benchmarks.operating_points PHOTOS`). Of a variable-rate model a qstep is a
16th of the way to the next quality.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dkic.entropy.quantization import MAX_QUALITY, PARTS

# At more than 3 the next lower quality at -2 takes about as many bits.
BETWEEN = (3, 2, 1, 0, -1, -2)
BELOW = (4,)  # the lowest quality goes further down (still coarser qsteps save it nothing),
ABOVE = (-3, -4)  # and the highest up


class OperatingPoint(NamedTuple):
    """A quality and a qstep, as `Codec.compress` has them."""

    quality: int
    qstep: int

    def __str__(self) -> str:
        return f"quality {self.quality}{f' qstep {self.qstep:+}' if self.qstep else ''}"


def operating_points(qualities: Sequence[int]) -> list[OperatingPoint]:
    """Those of a model of several networks, whose qualities rise, nearly in rising order of rate."""
    lowest = [OperatingPoint(qualities[0], qstep) for qstep in BELOW]
    highest = [OperatingPoint(qualities[-1], qstep) for qstep in ABOVE]
    return [*lowest, *(OperatingPoint(quality, qstep) for quality in qualities for qstep in BETWEEN), *highest]


# Of a variable-rate model's qualities, one in so many is measured first, and then one in so many near the best choice.
_MEASURED, _CHOSEN = 9, 3


def every_operating_point(qualities: Sequence[int]) -> list[OperatingPoint]:
    """Qualities of a variable-rate model, all and in rising order -> its operating points, about 0.2 % of the rate apart."""
    half = PARTS // 2
    points = [OperatingPoint(quality, qstep) for quality in qualities for qstep in range(half - 1, -half - 1, -1)]
    return [point for point in points if qualities[0] <= point.quality - point.qstep / PARTS <= qualities[-1]]


def measured_first(qualities: Sequence[int]) -> list[OperatingPoint]:
    """Those of a variable-rate model at which an image is measured to begin with."""
    return [OperatingPoint(quality, 0) for quality in qualities[::_MEASURED]]


def chosen_among(qualities: Sequence[int]) -> list[OperatingPoint]:
    """Those of a variable-rate model among which images of a common target choose."""
    return [OperatingPoint(quality, 0) for quality in qualities[::_CHOSEN]]


def named(qualities: Sequence[int]) -> str:
    """Qualities in words: each of a few, or the first and last of a variable-rate model's."""
    return f"{qualities[0]} to {qualities[-1]}" if len(qualities) == MAX_QUALITY else ", ".join(map(str, qualities))


def last_within(n: int, within: Callable[[int], bool]) -> int:
    """The last of n points that is within a target, or -1; by bisection, as if all below one that is were so too."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low
