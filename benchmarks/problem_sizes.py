"""The problems that are timed; objects as the tests' cases (tests/ops/op_cases.py, tests/coding/rans_cases.py)."""

from coding.rans_cases import RANS_CASES
from ops.op_cases import LdcnCase


def ldcn_problem(side: int, groups: int) -> LdcnCase:
    """The aggregation of a codec's synthesis at a quarter of a square picture with sides of `4 * side` pixels."""
    name = f"1x192x{side}x{side} G={groups}"
    return LdcnCase(name, batch=1, groups=groups, depth=192 // groups, height=side, width=side)


LDCN_PROBLEMS = [ldcn_problem(128, groups) for groups in (8, 12)]

RANS_PROBLEMS = RANS_CASES

# Sides of the square pictures by which growth is judged.
GROWTH_SIDES = (256, 512, 1024, 2048)

THREADS = 2
