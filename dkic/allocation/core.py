"""The core problem: the few options that can still improve a choice, solved by HiGHS as a mixed-integer program.

Its variables are moves from the choice of the relaxation to another option. So its coefficients are small differences, and the
solution without moves is feasible.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from highspy import Highs, HighsLp, HighsVarType, MatrixFormat, SolutionStatus

from dkic.allocation.relaxation import Relaxation, pick, total

LARGEST = 10  # binary exponent of the largest cost and distortion after scaling for HiGHS, ...
TOLERANCE = 1e-10  # ... so that its smallest tolerance is about 1e-13 relative to them
REPAIRS = 100  # number of slightly infeasible solutions of HiGHS that are cut off before only the bound is used


class Core(NamedTuple):
    """image, option `[V]`: the moves. cost, distortion `[V]`: the changes that they cause."""

    image: np.ndarray
    option: np.ndarray
    cost: np.ndarray
    distortion: np.ndarray


class Solved(NamedTuple):
    """The best choice `[N]` found, its objective, and a lower bound for these options."""

    choice: np.ndarray
    objective: float
    bound: float


def find_core(cost: np.ndarray, distortion: np.ndarray, relaxation: Relaxation, objective: float) -> Core:
    """The options of choices that may have an objective below `objective` (reduced-cost fixing), without dominated options."""
    kept = relaxation.reduced < objective - relaxation.bound
    np.put_along_axis(kept, relaxation.choice[:, None], False, axis=1)
    rows = np.flatnonzero(kept.any(axis=1))
    cost, distortion, kept, chosen = cost[rows], distortion[rows], kept[rows], relaxation.choice[rows]
    # Option j dominates the options that neither cost less nor have less distortion; of equal options the first is kept.
    for j in range(cost.shape[1]):
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
    """The best choice that the core's moves can reach, up to `allowance` of distortion.

    HiGHS's result is recomputed in float64 from the original numbers. A choice beyond the capacity, which HiGHS's tolerance may
    accept, is cut off by an inequality that no other choice violates, and the problem is solved again.
    """
    unit = _scale(core.distortion)
    solver = _model(core, relaxation.slack, unit)
    solver.setOptionValue("mip_abs_gap", allowance * unit)
    best = Solved(relaxation.choice, relaxation.objective, relaxation.bound)
    for _ in range(REPAIRS):
        solver.setOptionValue("time_limit", max(0.0, end - time.monotonic()))
        _run(solver)
        info = solver.getInfo()
        if np.isfinite(info.mip_dual_bound):  # a feasible choice exists, so infinity would be a failure
            best = best._replace(bound=max(best.bound, relaxation.objective + info.mip_dual_bound / unit))
        if info.primal_solution_status != SolutionStatus.kSolutionStatusFeasible:  # the time limit was too short to find any
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
    """The power of two that scales the largest value to LARGEST binary digits; smaller if it would overflow."""
    return 2.0 ** min(LARGEST - int(np.frexp(np.abs(values).max())[1]), 1000)


class _QuietHighs(Highs):
    """Creates a solver without printing HiGHS's version."""

    def enableCallbacks(self) -> None:
        self.silent()
        super().enableCallbacks()


def _run(solver: Highs) -> None:
    """Runs `solver.run()` in a thread, so that Ctrl-C, which interrupts only the main thread, can stop it."""
    solver.HandleUserInterrupt = True
    with ThreadPoolExecutor(1) as thread:
        solving = thread.submit(solver.run)
        try:
            solving.result()
        except KeyboardInterrupt:
            solver.cancelSolve()
            raise  # after the thread has ended


def _model(core: Core, slack: float, unit: float) -> Highs:
    """min distortion x, subject to cost x <= slack and at most one x = 1 for each image."""
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
        "threads": 1,  # a second thread doubles the CPU time without saving wall-clock time
        "mip_rel_gap": 0.0,
        "mip_feasibility_tolerance": TOLERANCE,
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
        "small_matrix_value": 1e-12,  # smaller values are treated as 0
    }.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    return solver
