"""dkic.allocation compared with general mixed-integer solvers on the complete problem: from tables to a choice.

* "highspy": HiGHS's MIP solver, in the version that dkic uses for its core problem.
* "scipy.optimize.milp": scipy's, which is an older HiGHS.

All solve to a gap of at most GAP. The peers have a time limit of SECONDS, which they check only from time to time. They are
not timed at the largest size, since reading the problem takes them longer. From 10,000 images on there is no warmup. The
reported gap of each result is that to dkic's bound. Before timing, this bound is compared with
the bound that follows from the price.
"""

import numpy as np
import pytest
from allocation.allocation_cases import chosen, rate_distortion
from peers import highspy_allocation, scipy_allocation
from problem_sizes import ALLOCATION_IMAGES, ALLOCATION_PEERS_UP_TO

from dkic.allocation import allocate

MEAN = 0.15  # bpp
GAP = 1e-6
SECONDS = 5.0

SOLVERS = {
    "highspy": lambda rate, distortion: highspy_allocation(rate, distortion, MEAN, GAP, SECONDS),
    "scipy.optimize.milp": lambda rate, distortion: scipy_allocation(rate, distortion, MEAN, GAP, SECONDS),
    "dkic": lambda rate, distortion: allocate(rate, distortion, MEAN, gap=GAP).choice,
}
CASES = [(n, name) for n in ALLOCATION_IMAGES for name in SOLVERS if name == "dkic" or n <= ALLOCATION_PEERS_UP_TO]


@pytest.mark.parametrize(("n", "implementation"), CASES)
def test_allocation(n, implementation, measure, benchmark):
    rate, distortion = rate_distortion(n)
    found = allocate(rate, distortion, MEAN, gap=GAP)
    at_price = (distortion + found.price * rate).min(axis=1).sum() - found.price * MEAN * n
    assert found.gap <= GAP and found.bound >= at_price * (1 - 1e-12)
    stopped = implementation != "dkic" and n >= 10_000
    rounds = 1 if stopped or n == 1_000_000 else 5
    choices: list[np.ndarray | None] = []
    solve = SOLVERS[implementation]
    work = f"allocation, {n:,} images x 8"
    measure(work, implementation, lambda: choices.append(solve(rate, distortion)), rounds, warmup=int(n < 10_000))
    benchmark.extra_info["gap"] = None
    if (choice := choices[-1]) is not None:
        # Up to HiGHS's tolerance for the peers, up to rounding for dkic.
        assert chosen(rate, choice).mean() <= MEAN * (1 + (1.001e-12 if implementation == "dkic" else 1e-6))
        gap = 1 - found.bound / chosen(distortion, choice).sum()
        assert gap >= -1e-6
        benchmark.extra_info["gap"] = gap if gap > 1e-12 else 0.0
