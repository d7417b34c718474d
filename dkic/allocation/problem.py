"""The validated problem: cost and distortion of each option, and the budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from dkic.errors import DkicError

Kind = Literal["mean_bpp", "total_bytes", "total_bpp"]
UNITS: dict[str, str] = {"mean_bpp": "bpp in the mean", "total_bytes": "bytes", "total_bpp": "bpp over all pixels"}
FEASIBLE = 1 + 1e-12  # relative tolerance of a limit on the rate, for rounding of sums and quotients


class Unreachable(DkicError):
    """Even the cheapest options exceed the budget."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose one option for each image, so that the sum of costs in every group is at most the group's capacity.

    cost, distortion: float64 `[N, M]`, distortion multiplied by the weights; both infinite if the option does not exist.
    members: the images of each group, `[n_g]`; every image is in exactly one group.
    budget, size: `[G]`; a group's rate, in the budget's unit, is the sum of its costs divided by its size.
    bits_per_cost: bits (with "mean_bpp", bits per pixel of one image) in a unit of cost.
    grouped: whether the caller gave groups.
    """

    cost: np.ndarray
    distortion: np.ndarray
    members: list[np.ndarray]
    budget: np.ndarray
    size: np.ndarray
    bits_per_cost: int
    grouped: bool

    @property
    def capacity(self) -> np.ndarray:
        """`[G]`, in the unit of cost."""
        return self.budget * FEASIBLE * self.size


def make_problem(
    rate: ArrayLike,
    distortion: ArrayLike,
    budget: ArrayLike,
    kind: Kind,
    pixels: ArrayLike | None,
    weights: ArrayLike | None,
    min_quality: ArrayLike | None,
    max_bytes: ArrayLike | None,
    max_distortion: ArrayLike | None,
    groups: ArrayLike | None,
    names: Sequence[str] | None,
) -> Problem:
    """The validated problem. Arguments and errors as in `allocate`."""
    if kind not in get_args(Kind):
        raise DkicError(f"kind: is {kind!r}; give one of {', '.join(get_args(Kind))}")
    rate, distortion = _numbers("rate", rate), _numbers("distortion", distortion)
    if rate.ndim != 2 or rate.size == 0 or rate.shape != distortion.shape:
        shapes = f"{rate.shape} and {distortion.shape}"
        raise DkicError(f"rate, distortion: have shapes {shapes}; give [N, M] with at least one image and one option")
    n = len(rate)
    if names is not None and len(names) != n:
        raise DkicError(f"names: are {len(names)}; give one for each of the {n} images")
    there = _options(rate, distortion, names)
    pixels = None if pixels is None else _per_image("pixels", pixels, n, least=1)
    weights = None if weights is None else _per_image("weights", weights, n, least=0)
    if pixels is None and (kind == "total_bpp" or (max_bytes is not None and kind != "total_bytes")):
        needing = "kind total_bpp" if kind == "total_bpp" else "max_bytes"
        raise DkicError(f"pixels: are missing, and {needing} needs them; give pixels [N]")

    limits: dict[str, np.ndarray] = {}  # the options that each limit excludes
    if min_quality is not None:
        limits["below min_quality"] = np.arange(rate.shape[1]) < _per_image("min_quality", min_quality, n)[:, None]
    if max_bytes is not None:
        size = rate if kind == "total_bytes" else rate * (pixels[:, None] / 8)  # type: ignore[index]
        limits["above max_bytes"] = size > _per_image("max_bytes", max_bytes, n)[:, None] * FEASIBLE
    if max_distortion is not None:
        limits["above max_distortion"] = distortion > _per_image("max_distortion", max_distortion, n)[:, None]
    there = _within(there, limits, names)

    cost = rate * pixels[:, None] if kind == "total_bpp" else rate  # type: ignore[index]
    if weights is not None:
        distortion = distortion * weights[:, None]
    members, budget = _groups(groups, budget, n)
    problem = Problem(
        cost=np.where(there, cost, np.inf),
        distortion=np.where(there, distortion, np.inf),
        members=members,
        budget=budget,
        size=np.array([_size(kind, of_group, pixels) for of_group in members]),
        bits_per_cost=8 if kind == "total_bytes" else 1,
        grouped=groups is not None,
    )
    _check_reachable(problem, kind)
    return problem


def _size(kind: Kind, of_group: np.ndarray, pixels: np.ndarray | None) -> float:
    return {"mean_bpp": len(of_group), "total_bytes": 1, "total_bpp": pixels[of_group].sum() if pixels is not None else 0}[kind]


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "buif":
            raise TypeError
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: is {kind}; give an array of real numbers on the CPU") from None


def _per_image(name: str, value: Any, n: int, least: float | None = None) -> np.ndarray:
    """`[N]` from a number or `[N]`. It must not contain NaN; with `least`, it must be finite and at least `least`."""
    array = _numbers(name, value)
    if array.shape not in ((), (n,)):
        raise DkicError(f"{name}: has shape {array.shape}; give a number, or one for each of the {n} images")
    array = np.broadcast_to(array, n)
    good = ~np.isnan(array) if least is None else np.isfinite(array) & (array >= least)
    if not good.all():
        at = int(np.argmin(good))
        raise DkicError(f"{name}[{at}]: is {array[at]}; give {'a number' if least is None else f'at least {least}'}")
    return array


def _label(row: int, names: Sequence[str] | None) -> str:
    return f"row {row}" + (f" ({names[row]})" if names is not None else "")


def _options(rate: np.ndarray, distortion: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    """Mask of the existing options, bool `[N, M]`. Raises DkicError for the first inconsistent or invalid one."""
    no_rate, no_distortion = np.isnan(rate), np.isnan(distortion)
    for bad, what in (
        (no_rate != no_distortion, "give NaN in both for an option that does not exist"),
        (rate < 0, "give a rate of at least 0"),
        (np.isinf(rate) | np.isinf(distortion), "give finite numbers"),
    ):
        if bad.any():
            i, j = (int(k) for k in np.unravel_index(np.argmax(bad), bad.shape))
            where = f"{_label(i, names)}, column {j}"
            raise DkicError(f"{where}: rate is {rate[i, j]} and distortion {distortion[i, j]}; {what}")
    there = ~no_rate
    missing = ~there.any(axis=1)
    if missing.any():
        label = _label(int(np.argmax(missing)), names)
        raise DkicError(f"{label}: each of its {rate.shape[1]} columns is NaN; give at least one option")
    return there


def _within(there: np.ndarray, limits: dict[str, np.ndarray], names: Sequence[str] | None) -> np.ndarray:
    """Mask of the options within all limits. Raises DkicError for the first image without any."""
    left = there
    for out in limits.values():
        left = left & ~out
    none = ~left.any(axis=1)
    if none.any():
        row = int(np.argmax(none))
        counts = ", ".join(f"{(out[row] & there[row]).sum()} {what}" for what, out in limits.items())
        raise DkicError(f"{_label(row, names)}: no option is left of {there[row].sum()} ({counts}); relax the limits")
    return left


def _groups(groups: Any, budget: Any, n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The members of each group and the budgets `[G]`."""
    budget = _numbers("budget", budget)
    if budget.ndim != (groups is not None) or budget.size == 0:
        wanted = "[G], one for each group" if groups is not None else "one number, or groups"
        raise DkicError(f"budget: has shape {budget.shape}; give {wanted}")
    budget = np.atleast_1d(budget)
    bad = ~(np.isfinite(budget) & (budget >= 0))
    if bad.any():
        raise DkicError(f"budget: is {budget[np.argmax(bad)]}; give a finite number of at least 0")
    if groups is None:
        return [np.arange(n)], budget
    groups = np.asarray(groups)
    if groups.dtype.kind not in "iu":
        raise TypeError(f"groups: have dtype {groups.dtype}; give integers")
    if groups.shape != (n,):
        raise DkicError(f"groups: have shape {groups.shape}; give one for each of the {n} images")
    bad = (groups < 0) | (groups >= len(budget))
    if bad.any():
        at = int(np.argmax(bad))
        raise DkicError(f"groups[{at}]: is {groups[at]}; give 0 to {len(budget) - 1}, the groups that have a budget")
    counts = np.bincount(groups, minlength=len(budget))
    if not counts.all():
        raise DkicError(f"budget: group {int(np.argmin(counts))} has a budget but no image; remove it or give it an image")
    return np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1]), budget


def _check_reachable(problem: Problem, kind: Kind) -> None:
    least = problem.cost.min(axis=1)
    for g, of_group in enumerate(problem.members):
        if least[of_group].sum() > problem.capacity[g]:
            reachable = least[of_group].sum() / problem.size[g]
            short = reachable - problem.budget[g]
            raise Unreachable(
                f"budget{f' of group {g}' if problem.grouped else ''}: {problem.budget[g]:.12g} {UNITS[kind]} is below the "
                f"cheapest choice by {short:.6g} ({short / reachable:.1%}); give at least {reachable:.12g}"
            )
