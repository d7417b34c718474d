"""Eq. 6 of the paper: chooses one quality for each image, for the least distortion within a budget, with a bound.

The linear relaxation is solved by a sort and rounded to a feasible choice. With the gap between both, reduced costs exclude
nearly all options; HiGHS solves the rest as a mixed-integer program. Each group with a budget is a separate problem.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from dkic.allocation.core import find_core, solve_core
from dkic.allocation.problem import Kind, Problem, make_problem
from dkic.allocation.relaxation import improve, pick, relax
from dkic.errors import DkicError

SMALL = 1000  # problems with at most this number of options are solved to the optimum, whatever the gap, ...
SMALL_SECONDS = 5.0  # ... within this time
ROUNDING = 1e-12  # relative to the sum of |distortion|: an objective this near to its bound is optimal


@dataclass(frozen=True, eq=False)
class Allocation:
    """Result of `allocate`. With groups, rate, price and slack are arrays `[G]`.

    Attributes:
        choice: int64 `[N]`, the chosen column for each image.
        objective: the sum of (weighted) distortion.
        bound: lower bound of the objective over all choices within the budget.
        gap: (objective - bound) / |objective|; 0 is a proven optimum, up to rounding.
        rate: of the choice, in the budget's unit.
        price: decrease of distortion for one more bit; with "mean_bpp", for one more bit per pixel of one image.
        slack: budget - rate.
        mip_variables: number of options in HiGHS's problem; 0 if the relaxation's gap was small enough.
    """

    choice: np.ndarray
    objective: float
    bound: float
    gap: float
    rate: float | np.ndarray
    price: float | np.ndarray
    slack: float | np.ndarray
    mip_variables: int


def allocate(
    rate: ArrayLike,
    distortion: ArrayLike,
    budget: ArrayLike,
    *,
    kind: Kind = "mean_bpp",
    pixels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    min_quality: ArrayLike | None = None,
    max_bytes: ArrayLike | None = None,
    max_distortion: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    gap: float = 1e-6,
    time_limit: float | None = None,
    names: Sequence[str] | None = None,
) -> Allocation:
    """Chooses one option of each of N images, for the least sum of distortion within a budget.

    Args:
        rate: `[N, M]`, at least 0; bits per pixel, or bytes with kind "total_bytes". NaN in rate and distortion if the option
            does not exist.
        distortion: `[N, M]`, lower is better; columns are qualities, from the lowest to the highest.
        budget: upper bound of the rate, up to a factor of 1 + 1e-12 for rounding.
        kind: the rate that budget bounds: "mean_bpp", the mean over images of their bits per pixel (equation 6 of the paper);
            "total_bytes", the sum of bytes; "total_bpp", all bits divided by all pixels (CLIC's rule).
        pixels: `[N]`; required for "total_bpp", and for max_bytes if rate is in bits per pixel.
        weights: `[N]`, at least 0; factors of the distortion in the objective.
        min_quality: a number or `[N]`: the first allowed column.
        max_bytes: a number or `[N]`: upper bound of the bytes of an image.
        max_distortion: a number or `[N]`: upper bound of the distortion of an image, not weighted.
        groups: int `[N]`, the group of each image, 0 to G-1; budget is then `[G]`, one for each group.
        gap: relative optimality gap; 0 solves to the optimum. Problems with at most 1,000 options are solved to the optimum
            anyway if HiGHS needs at most 5 seconds.
        time_limit: seconds after which HiGHS stops; the result states the gap reached. The rest takes about a second per
            300,000 images.
        names: names of the images `[N]`, for error messages.

    Raises:
        DkicError (a ValueError): an argument is invalid, or no choice is within the limits or the budget; the message names the
            row and column, or the difference to the budget.
        TypeError: an argument is not an array of numbers.
    """
    if not (isinstance(gap, Real) and 0 <= gap < np.inf):
        raise DkicError(f"gap: is {gap!r}; give a finite number of at least 0")
    if time_limit is not None and not (isinstance(time_limit, Real) and time_limit >= 0):
        raise DkicError(f"time_limit: is {time_limit!r}; give None, or at least 0 seconds")
    end = time.monotonic() + (np.inf if time_limit is None else time_limit)
    problem = make_problem(rate, distortion, budget, kind, pixels, weights, min_quality, max_bytes, max_distortion, groups, names)
    return _allocation(problem, _solve(problem, float(gap), end))


class _Group:
    """The images under one budget, with the best choice so far, its objective, and a lower bound."""

    def __init__(self, cost: np.ndarray, distortion: np.ndarray, capacity: float):
        self.cost, self.distortion, self.capacity = cost, distortion, capacity
        self.relaxed = relax(cost, distortion, capacity)
        self.choice, self.objective, self.bound = self.relaxed.choice, self.relaxed.objective, self.relaxed.bound
        self.rounding = ROUNDING * float(np.abs(pick(distortion, self.choice)).sum())
        self.mip_variables = 0

    def done(self, allowance: float) -> bool:
        return self.objective - self.bound <= max(allowance, self.rounding)

    def improve(self, allowance: float) -> None:
        if not self.done(allowance):
            enough = self.bound + allowance
            self.choice, self.objective = improve(self.cost, self.distortion, self.capacity, self.relaxed, enough)

    def prove(self, allowance: float, end: float) -> None:
        if self.done(allowance):
            return
        proved = self.objective - allowance  # lower bound of all choices with an option outside the core
        core = find_core(self.cost, self.distortion, self.relaxed, proved)
        self.mip_variables = max(self.mip_variables, len(core.cost))
        if len(core.cost):
            found = solve_core(core, self.cost, self.distortion, self.capacity, self.relaxed, allowance, end)
            proved = min(proved, found.bound)
            if found.objective < self.objective:
                self.choice, self.objective = found.choice, found.objective
        self.bound = max(self.bound, proved)


def _solve(problem: Problem, gap: float, end: float) -> list[_Group]:
    whole = len(problem.members) == 1  # avoids a copy
    cost, distortion = problem.cost, problem.distortion
    groups = [
        _Group(cost, distortion, float(capacity)) if whole else _Group(cost[members], distortion[members], float(capacity))
        for members, capacity in zip(problem.members, problem.capacity, strict=True)
    ]

    def allowance() -> float:
        """Distance of a group's objective to its bound such that the total over the groups is within the requested gap."""
        low, high = sum(group.bound for group in groups), sum(group.objective for group in groups)
        return gap * max(low, -high, 0.0) / len(groups)  # the final objective is between low and high

    at_first = allowance()  # bounds rise and objectives fall, so it can only grow
    for group in groups:
        group.improve(at_first)
    near_enough = allowance()
    for group in groups:
        if problem.cost.size <= SMALL:
            group.prove(0.0, min(end, time.monotonic() + SMALL_SECONDS))
        group.prove(near_enough, end)
    return groups


def _allocation(problem: Problem, groups: list[_Group]) -> Allocation:
    choice = np.empty(len(problem.cost), np.int64)
    for members, group in zip(problem.members, groups, strict=True):
        choice[members] = group.choice
    objective = sum(group.objective for group in groups)
    bound = sum(group.objective if group.done(0.0) else group.bound for group in groups)
    spent = pick(problem.cost, choice)
    rate = np.array([spent[members].sum() for members in problem.members]) / problem.size
    price = np.array([group.relaxed.price for group in groups])
    by_group = (lambda array: array) if problem.grouped else (lambda array: float(array[0]))
    return Allocation(
        choice=choice,
        objective=objective,
        bound=bound,
        gap=0.0 if objective == bound else (objective - bound) / abs(objective) if objective else np.inf,
        rate=by_group(rate),
        price=by_group(price / problem.bits_per_cost),
        slack=by_group(problem.budget - rate),
        mip_variables=sum(group.mip_variables for group in groups),
    )
