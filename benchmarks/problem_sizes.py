"""The problems of the benchmarks; instances of the tests' cases (tests/ops/op_cases.py, tests/coding/rans_cases.py)."""

from coding.rans_cases import RANS_CASES
from ops.op_cases import DeformConv2dCase, LdcnCase, LikelihoodCase


def ldcn_problem(side: int, groups: int) -> LdcnCase:
    """The aggregation of a codec's synthesis at a quarter of a square image with sides of `4 * side` pixels."""
    name = f"1x192x{side}x{side} G={groups}"
    return LdcnCase(name, batch=1, groups=groups, depth=192 // groups, height=side, width=side)


LDCN_PROBLEMS = [ldcn_problem(128, groups) for groups in (8, 12)]

# The last is of DCNv4's paper.
DCNV4_PROBLEMS = [*LDCN_PROBLEMS, LdcnCase("64x128x56x56 G=4", batch=64, groups=4, depth=32, height=56, width=56)]

RANS_PROBLEMS = RANS_CASES

# Sides of the square images for measuring growth.
GROWTH_SIDES = (256, 512, 1024, 2048)

# A whole convolution of the same size; few channels; depthwise.
DEFORM_CONV2D_PROBLEMS = [
    DeformConv2dCase("192->192 3x3 128x128 G=8", batch=1, groups=8, depth=24, height=128, width=128, out_channels=192),
    DeformConv2dCase("16->16 3x3 128x128 G=1", batch=1, groups=1, depth=16, height=128, width=128, out_channels=16),
    DeformConv2dCase(
        "192 depthwise 3x3 64x64 G=8", batch=1, groups=8, depth=24, height=64, width=64, out_channels=192, weight_groups=192
    ),
]

# The latent of a 768x512 image at a sixteenth, 320 channels.
LIKELIHOOD_PROBLEMS = [LikelihoodCase("1x320x48x32", (1, 320, 48, 32))]

# Numbers of images with 8 qualities each. Up to 100,000 images, general solvers are timed too.
ALLOCATION_IMAGES = (30, 100, 10_000, 100_000, 1_000_000)
ALLOCATION_PEERS_UP_TO = 100_000

THREADS = 2
