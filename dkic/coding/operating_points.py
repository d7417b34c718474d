"""Operating points: pairs of a quality and a qstep (quantizer step offset), and the points of a model.

A model of several networks is trained for qstep 0; each increment saves about a tenth of the bits. Means over eleven photographs
with six networks of the preset `tiny`, bits per pixel and LPIPS: quality 3 had 0.136 and 0.148 at qstep 0, 0.170 and 0.137 at -2;
quality 4 had 0.232 and 0.096 at 0, 0.193 and 0.108 at 2, 0.162 and 0.126 at 4. So a qstep replaces a network trained for the
rate in between. For a variable-rate model a qstep is 1/16 of the distance to the next quality.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dkic.entropy.quantization import MAX_QUALITY, PARTS


class OperatingPoint(NamedTuple):
    """A quality and a qstep, as `Codec.compress` takes them."""

    quality: int
    qstep: int

    def __str__(self) -> str:
        return f"quality {self.quality}{f' qstep {self.qstep:+}' if self.qstep else ''}"


class OperatingPoints(ABC):
    """The operating points of a model. All lists are in rising order of rate, or nearly so.

    Args:
        qualities: of the model, rising.
    """

    def __init__(self, qualities: Sequence[int]) -> None:
        self.qualities = list(qualities)

    @property
    @abstractmethod
    def default_quality(self) -> int:
        """The quality for callers that give none."""

    @abstractmethod
    def measured_first(self) -> list[OperatingPoint]:
        """Points at which an image is measured before an allocation."""

    @abstractmethod
    def candidates(self) -> list[OperatingPoint]:
        """Points that an allocation chooses from."""

    @abstractmethod
    def all(self) -> list[OperatingPoint]:
        """Points that a single image chooses from for its target rate."""

    @abstractmethod
    def by_setting(self) -> dict[int, OperatingPoint]:
        """Points for comparisons with other codecs, by an integer setting that rises with the rate."""

    @abstractmethod
    def cache_number(self, point: OperatingPoint) -> int:
        """A number that is unique among the points of one weights file."""


class SeparateNetworks(OperatingPoints):
    """Of a model with a network for each quality."""

    # With more than 3 the next lower quality at -2 takes about as many bits.
    QSTEPS = (3, 2, 1, 0, -1, -2)
    BELOW = (4,)  # further qsteps of the lowest quality (coarser ones save no bits) ...
    ABOVE = (-3, -4)  # ... and of the highest
    # Further ones gain little: `dkic compress`, which uses them too, has LPIPS 0.1308 instead of 0.1313 at 0.15 bits per pixel.
    COMPARED_QSTEPS = (2, 1, 0, -1)

    @property
    def default_quality(self) -> int:
        return self.qualities[-1]

    def measured_first(self) -> list[OperatingPoint]:
        return [OperatingPoint(quality, 0) for quality in self.qualities]

    def candidates(self) -> list[OperatingPoint]:
        return self.all()

    def all(self) -> list[OperatingPoint]:
        lowest = [OperatingPoint(self.qualities[0], qstep) for qstep in self.BELOW]
        highest = [OperatingPoint(self.qualities[-1], qstep) for qstep in self.ABOVE]
        return [*lowest, *(OperatingPoint(quality, qstep) for quality in self.qualities for qstep in self.QSTEPS), *highest]

    def by_setting(self) -> dict[int, OperatingPoint]:
        """By 10 * quality - qstep: 28, 29, 30 and 31 are quality 3 at qsteps 2, 1, 0 and -1."""
        points = [OperatingPoint(quality, qstep) for quality in self.qualities for qstep in self.COMPARED_QSTEPS]
        return {10 * point.quality - point.qstep: point for point in points}

    def cache_number(self, point: OperatingPoint) -> int:
        return point.qstep


class VariableRate(OperatingPoints):
    """Of a variable-rate model, one network for the qualities 1 to 100."""

    DEFAULT_QUALITY = 50
    # Every 9th quality is measured first, then every 3rd near the best choice.
    MEASURED, CANDIDATES = 9, 3

    @property
    def default_quality(self) -> int:
        return self.DEFAULT_QUALITY

    def measured_first(self) -> list[OperatingPoint]:
        return [OperatingPoint(quality, 0) for quality in self.qualities[:: self.MEASURED]]

    def candidates(self) -> list[OperatingPoint]:
        return [OperatingPoint(quality, 0) for quality in self.qualities[:: self.CANDIDATES]]

    def all(self) -> list[OperatingPoint]:
        """About 0.2 % of the rate apart."""
        half, (first, *_, last) = PARTS // 2, self.qualities
        points = [OperatingPoint(quality, qstep) for quality in self.qualities for qstep in range(half - 1, -half - 1, -1)]
        return [point for point in points if first <= point.quality - point.qstep / PARTS <= last]

    def by_setting(self) -> dict[int, OperatingPoint]:
        """By quality."""
        return {point.quality: point for point in self.candidates()}

    def cache_number(self, point: OperatingPoint) -> int:
        return point.quality * PARTS - point.qstep


def named(qualities: Sequence[int]) -> str:
    """Qualities as text: each of a few, or the first and last of a variable-rate model's."""
    return f"{qualities[0]} to {qualities[-1]}" if len(qualities) == MAX_QUALITY else ", ".join(map(str, qualities))


def last_within(n: int, within: Callable[[int], bool]) -> int:
    """Index of the last of n points that is within a target, or -1. Bisection: assumes that all points below it are, too."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low
