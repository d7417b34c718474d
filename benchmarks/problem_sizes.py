"""The problems that are timed; the same kind of object as the tests' cases (tests/ops/op_cases.py)."""

from ops.op_cases import LdcnCase

# The aggregation of a codec's synthesis at a quarter of a 512x512 picture.
LDCN_PROBLEMS = [
    LdcnCase(f"1x192x128x128 G={groups}", batch=1, groups=groups, depth=192 // groups, height=128, width=128)
    for groups in (8, 12)
]

THREADS = 2
