"""Time by image size: the ops with the shapes of a codec for an image of that size, and the codec `small`.

report.py fits a + b * pixels to the medians, and reports a and the largest deviation from the line.
"""

from collections.abc import Callable

import pytest
import torch
from problem_sizes import GROWTH_SIDES, ldcn_problem
from whole_codecs import Ours, image

from dkic.ops import gaussian_likelihood, ldcn


def ldcn_forward(side: int) -> Callable[[], object]:
    case = ldcn_problem(side // 4, groups=8)
    x, offset, mask = (t.contiguous(memory_format=torch.channels_last) for t in case.tensors(torch.float32))
    return torch.no_grad()(lambda: ldcn(x, offset, mask, **case.geometry))


def likelihood_forward(side: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 320, side // 16, side // 16)
    y, mean = (torch.randn(shape, generator=generator) for _ in range(2))
    scale = 0.11 * 110 ** torch.rand(shape, generator=generator)
    return torch.no_grad()(lambda: gaussian_likelihood(y, scale, mean, quantize="round"))


def codec_encode(side: int) -> Callable[[], object]:
    codec, pixels = Ours("small"), image(side, side)
    return lambda: codec.compress(pixels)


def codec_decode(side: int) -> Callable[[], object]:
    codec = Ours("small")
    data = codec.compress(image(side, side))
    return lambda: codec.decompress(data)


WARMUP = 8  # in the first calls, up to so many, large results are not yet in memory that was freed before, and cost page faults

# Each creates its inputs for a square image with this side, in pixels, and returns the timed call. Results are verified
# elsewhere: by the benchmark of the op, and by the checksum of the decoded symbols in a file.
GROWING = {
    "ldcn": ldcn_forward,
    "gaussian_likelihood": likelihood_forward,
    "codec small encode": codec_encode,
    "codec small decode": codec_decode,
}


@pytest.mark.parametrize("side", GROWTH_SIDES)
@pytest.mark.parametrize("what", GROWING)
def test_growth(what, side, measure, benchmark):
    benchmark.extra_info.update(growth=what, pixels=side**2)
    rounds = max(5, 20 * GROWTH_SIDES[0] ** 2 // side**2)
    measure(f"growth: {what}, {side}x{side}", "dkic", GROWING[what](side), rounds, warmup=WARMUP)
