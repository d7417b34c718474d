"""Linear relaxation of one budget, solved by a sort, and feasible choices near it.

On an image's lower convex hull of (cost, distortion), each step to the next option gains less per cost than the step before. So
taking the steps of all images in order of gain per cost, until the budget is spent, solves the relaxation with at most one
fractional image (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, 1979). An option that does not exist has infinite
cost and distortion.
"""

from typing import NamedTuple

import numpy as np

ROWS_AT_ONCE = 2**13  # rows of a block, whose temporary arrays fit into the CPU's cache
STEEPEST = -1e150  # steeper slopes are clamped, since their products would overflow; the bound is valid for any price
ROUNDS = 20  # maximum number of improvements of a choice


class Steps(NamedTuple):
    """The steps along the hulls.

    start: the cheapest option of each image `[N]`.
    image, option: each step changes `image` to `option`, `[K]`. The steps of an image are in order.
    slope: change of distortion per cost of a step `[K]`; negative, and nondecreasing within an image.
    added: additional cost of a step `[K]`.
    """

    start: np.ndarray
    image: np.ndarray
    option: np.ndarray
    slope: np.ndarray
    added: np.ndarray


class Relaxation(NamedTuple):
    """The solution of the relaxation, rounded down to a feasible choice.

    choice: option of each image `[N]`, on its hull and optimal at `price`.
    price: distortion per cost.
    slack: capacity that is left.
    objective: distortion of `choice`.
    bound: lower bound of the distortion of all choices within the capacity.
    reduced: reduced costs `[N, M]`; a choice with option j of image i has a distortion of at least bound + reduced[i, j].
    """

    choice: np.ndarray
    price: float
    slack: float
    objective: float
    bound: float
    reduced: np.ndarray


def pick(table: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """The chosen values `[N]` of `[N, M]`."""
    return np.take_along_axis(table, choice[:, None], axis=1)[:, 0]


def total(table: np.ndarray, choice: np.ndarray) -> float:
    """The sum of the chosen values of `[N, M]`."""
    return float(pick(table, choice).sum())


def hull_steps(cost: np.ndarray, distortion: np.ndarray) -> Steps:
    """The steps of all hulls of `[N, M]`: from each vertex to the option with the steepest descent."""
    firsts = range(0, len(cost), ROWS_AT_ONCE)
    parts = [_hull_steps(cost[i : i + ROWS_AT_ONCE], distortion[i : i + ROWS_AT_ONCE], i) for i in firsts]
    return Steps(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _hull_steps(cost: np.ndarray, distortion: np.ndarray, first: int) -> Steps:
    cheapest = cost == cost.min(axis=1, keepdims=True)
    start = option = np.where(cheapest, distortion, np.inf).argmin(axis=1)
    image, before = np.arange(first, first + len(cost)), np.full(len(cost), STEEPEST)
    steps = [(image[:0], option[:0], before[:0], before[:0])]
    while True:
        more = cost - pick(cost, option)[:, None]
        less = distortion - pick(distortion, option)[:, None]
        slope = np.divide(less, more, out=np.zeros_like(less), where=(more > 0) & (less < 0))
        option = slope.argmin(axis=1)
        down = np.flatnonzero(pick(slope, option) < 0)
        if len(down) == 0:
            return Steps(start, *(np.concatenate(columns) for columns in zip(*steps, strict=True)))
        slope, more, option = slope[down], more[down], option[down]
        image, cost, distortion = image[down], cost[down], distortion[down]
        # Slopes are nondecreasing except for rounding, which must not change the order.
        before = np.maximum(pick(slope, option), before[down])
        steps.append((image, option, before, pick(more, option)))


def relax(cost: np.ndarray, distortion: np.ndarray, capacity: float) -> Relaxation:
    """Solves the relaxation; the sum of the least costs must be within the capacity."""
    steps = hull_steps(cost, distortion)
    order = np.argsort(steps.slope, kind="stable")
    spent = total(cost, steps.start) + np.cumsum(steps.added[order])
    taken = int(np.searchsorted(spent, capacity, side="right"))
    while True:
        choice = steps.start.copy()
        choice[steps.image[order[:taken]]] = steps.option[order[:taken]]  # the last step of an image wins
        slack = capacity - total(cost, choice)
        if slack >= 0 or taken == 0:
            break
        taken -= 1  # the cumulative sum was rounded differently
    price = -float(steps.slope[order[taken]]) if taken < len(order) else 0.0
    del steps, order, spent
    objective = total(distortion, choice)
    reduced = distortion - pick(distortion, choice)[:, None]
    if price > 0:  # infinity times 0 is NaN
        reduced += price * (cost - pick(cost, choice)[:, None])
    below = reduced.min(axis=1).clip(max=0).sum()  # 0 except for rounding
    return Relaxation(choice, price, slack, objective, float(objective - price * slack + below), reduced)


def improve(
    cost: np.ndarray, distortion: np.ndarray, capacity: float, relaxation: Relaxation, good_enough: float
) -> tuple[np.ndarray, float]:
    """A choice `[N]` within the capacity and its objective: the relaxation's, improved by changes of one or two images.

    Repeats until the objective is at most `good_enough`, nothing is gained, or ROUNDS is reached.
    """
    choice, objective = relaxation.choice, relaxation.objective
    # The options that a better choice can contain.
    image, option = np.nonzero(relaxation.reduced < objective - relaxation.bound)
    if len(image) == 0:
        return choice, objective
    of_cost, of_distortion = cost[image, option], distortion[image, option]
    for _ in range(ROUNDS):
        if objective <= good_enough:
            break
        more = of_cost - pick(cost, choice)[image]
        change = of_distortion - pick(distortion, choice)[image]
        moves = _best_two(image, more, change, capacity - total(cost, choice))
        changed = choice.copy()
        changed[image[moves]] = option[moves]
        now = total(distortion, changed)
        if now >= objective or total(cost, changed) > capacity:
            break
        choice, objective = changed, now
    return choice, objective


def _best_two(image: np.ndarray, more: np.ndarray, change: np.ndarray, slack: float) -> np.ndarray:
    """Indices of one or two moves of different images that together cost at most `slack` and gain most.

    A best pair within one image is skipped, although its moves may have other partners.
    """
    order = np.argsort(more)
    gain = change[order]
    best = np.minimum.accumulate(gain)
    at = np.maximum.accumulate(np.where(gain == best, np.arange(len(gain)), 0))  # position of the best so far
    fits = np.searchsorted(more[order], slack - more, side="right") - 1  # the last affordable partner
    partner = order[at[fits]]
    pair = np.where((fits >= 0) & (image[partner] != image), change + best[fits], np.inf)
    alone = np.where(more <= slack, change, np.inf)
    first, single = int(pair.argmin()), int(alone.argmin())
    return np.array([single] if alone[single] <= pair[first] else [first, partner[first]])
