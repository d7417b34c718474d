"""The best choice by exhaustive search, and the files that `dkic compress --target-bpp` wrote."""

import itertools

import numpy as np
from command_line import dkic
from rate_control.rate_control_cases import POINTS, SIZES

from dkic.coding.container import unpack

QSTEP_0 = {i for i, point in enumerate(POINTS) if point.qstep == 0}


def rate(pixels: np.ndarray, size: np.ndarray, mean: bool) -> float:
    return float((size * 8 / pixels).mean() if mean else size.sum() * 8 / pixels.sum())


def best(table, target: float, mean: bool = False, among: list[set[int]] | None = None) -> tuple[int, ...]:
    """The choice of least distortion within the target, by exhaustive search. among: columns, by default those of qstep 0."""
    pixels, size, distortion = table
    rows = np.arange(len(pixels))
    choices = itertools.product(*(among or [QSTEP_0] * len(pixels)))
    within = [choice for choice in choices if rate(pixels, size[rows, choice], mean) <= target]
    return min(within, key=lambda choice: distortion[rows, choice].sum())


def measured_at_least(choice: list[int]) -> list[set[int]]:
    """The columns that must have been measured where this is chosen."""
    return [QSTEP_0 | set(range(max(at - 3, 0), min(at + 4, len(POINTS)))) for at in choice]


def columns(files: list[bytes]) -> list[int]:
    headers = [unpack(data).header for data in files]
    return [POINTS.index((header.quality, header.qstep)) for header in headers]


def written(out) -> list[bytes]:
    assert sorted(path.name for path in out.iterdir()) == [name.replace("png", "dkic") for name in SIZES]
    return [path.read_bytes() for path in sorted(out.iterdir())]


def compress(model, *arguments: object):
    return dkic("compress", *arguments, "--model", model)


def facts(said: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in said.splitlines()[len(SIZES) :])
