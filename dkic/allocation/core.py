"""The core: the few options that can still make a choice better, to HiGHS's mixed-integer solver.

Its variables are moves away from the relaxation's choice. So its numbers are small differences, and no move at all is feasible.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from highspy import Highs, HighsLp, HighsVarType, MatrixFormat, SolutionStatus

from dkic.allocation.relaxation import Relaxation, pick, total

LARGEST = 10  # binary digits before the point of the largest cost and the largest distortion as HiGHS gets them, ...
TOLERANCE = 1e-10  # ... so that its least tolerance is about 1e-13 of them
REPAIRS = 100  # choices that HiGHS's tolerance lets through and ours does not, before the bound alone is kept


class Core(NamedTuple):
    """image, option `[V]`: the moves; cost, distortion `[V]`: what they add."""

    image: np.ndarray
    option: np.ndarray
    cost: np.ndarray
    distortion: np.ndarray


class Solved(NamedTuple):
    """The best choice `[N]` found, its objective, and what no choice of these options has less than."""

    choice: np.ndarray
    objective: float
    bound: float


def find_core(cost: np.ndarray, distortion: np.ndarray, relaxation: Relaxation, objective: float) -> Core:
    """The options in choices that may have less than `objective` (reduced-cost fixing), without those that another one beats."""
    kept = relaxation.reduced < objective - relaxation.bound
    np.put_along_axis(kept, relaxation.choice[:, None], False, axis=1)
    rows = np.flatnonzero(kept.any(axis=1))
    cost, distortion, kept, chosen = cost[rows], distortion[rows], kept[rows], relaxation.choice[rows]
    for j in range(cost.shape[1]):  # option j beats those that neither cost less nor are better; of equals the first
        c, d = cost[:, j : j + 1], distortion[:, j : j + 1]
        equal = (cost == c) & (distortion == d) & (np.arange(cost.shape[1]) <= j)
        kept &= (cost < c) | (distortion < d) | equal
    row, option = np.nonzero(kept)
    return Core(
        image=rows[row],
        option=option,
        cost=cost[row, option] - pick(cost, chosen)[row],
        distortion=distortion[row, option] - pick(distortion, chosen)[row],
    )


def solve_core(
    core: Core,
    cost: np.ndarray,
    distortion: np.ndarray,
    capacity: float,
    relaxation: Relaxation,
    allowance: float,
    end: float,
) -> Solved:
    """The best choice that differs from the relaxation's by the core's moves, to within `allowance` of distortion.

    What HiGHS returns is recomputed in float64 from the problem's own numbers. A choice beyond the capacity, which HiGHS's
    tolerance may let through, is cut off by an inequality that no other choice breaks, and HiGHS is asked again.
    """
    unit = _scale(core.distortion)
    solver = _model(core, relaxation.slack, unit)
    solver.setOptionValue("mip_abs_gap", allowance * unit)
    best = Solved(relaxation.choice, relaxation.objective, relaxation.bound)
    for _ in range(REPAIRS):
        solver.setOptionValue("time_limit", max(0.0, end - time.monotonic()))
        _run(solver)
        info = solver.getInfo()
        if np.isfinite(info.mip_dual_bound):  # some choice is feasible, so that infinity would be a failure
            best = best._replace(bound=max(best.bound, relaxation.objective + info.mip_dual_bound / unit))
        if info.primal_solution_status != SolutionStatus.kSolutionStatusFeasible:  # the time was too short to find any
            break
        moves = np.asarray(solver.getSolution().col_value) > 0.5
        choice = relaxation.choice.copy()
        choice[core.image[moves]] = core.option[moves]
        if total(cost, choice) <= capacity:
            return best._replace(choice=choice, objective=total(distortion, choice))
        away = np.where(moves, 1.0, -1.0)
        solver.addRow(-np.inf, float(moves.sum() - 1), len(away), np.arange(len(away), dtype=np.int32), away)
    return best


def _scale(values: np.ndarray) -> float:
    """The power of two that brings the largest to LARGEST digits; less where values are so small that it would overflow."""
    return 2.0 ** min(LARGEST - int(np.frexp(np.abs(values).max())[1]), 1000)


class _QuietHighs(Highs):
    """Without the line about HiGHS's version, which is printed where callbacks are set: as an instance is made."""

    def enableCallbacks(self) -> None:
        self.silent()
        super().enableCallbacks()


def _run(solver: Highs) -> None:
    """`solver.run()` that Ctrl-C ends: in a thread of its own, since Python hears of it in the main one alone."""
    solver.HandleUserInterrupt = True
    with ThreadPoolExecutor(1) as thread:
        solving = thread.submit(solver.run)
        try:
            solving.result()
        except KeyboardInterrupt:
            solver.cancelSolve()
            raise  # once the thread has ended


def _model(core: Core, slack: float, unit: float) -> Highs:
    """min distortion x, so that cost x <= slack, and of each image at most one x is 1."""
    per_cost = _scale(core.cost)
    moves = len(core.image)
    images, row = np.unique(core.image, return_inverse=True)
    lp = HighsLp()
    lp.num_col_, lp.num_row_ = moves, len(images) + 1
    lp.col_cost_ = core.distortion * unit
    lp.col_lower_, lp.col_upper_ = np.zeros(moves), np.ones(moves)
    lp.integrality_ = [HighsVarType.kInteger] * moves
    lp.row_lower_ = np.full(lp.num_row_, -np.inf)
    lp.row_upper_ = np.append(np.ones(len(images)), slack * per_cost)
    lp.a_matrix_.format_ = MatrixFormat.kColwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = lp.num_col_, lp.num_row_
    lp.a_matrix_.start_ = np.arange(0, 2 * moves + 1, 2)
    lp.a_matrix_.index_ = np.stack([row, np.full(moves, len(images))], axis=1).ravel()
    lp.a_matrix_.value_ = np.stack([np.ones(moves), core.cost * per_cost], axis=1).ravel()
    solver = _QuietHighs()
    for name, value in {
        "threads": 1,  # a second one only doubled the processor's time
        "mip_rel_gap": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
        "small_matrix_value": 1e-12,  # what is smaller is taken for 0
    }.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    return solver
