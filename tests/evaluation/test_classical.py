"""JPEG as a peer: real files, and never fewer bits than ours."""

import numpy as np
import pytest
from photographs import crop

from dkic.evaluation.classical import jpeg, jpeg_of_size
from dkic.evaluation.metrics import batch, psnr

PIXELS = crop(128, 192)
X = batch(PIXELS)


def test_jpeg_gets_better_and_larger_with_its_quality():
    low, high = jpeg(PIXELS, 10), jpeg(PIXELS, 90)
    assert low.pixels.shape == PIXELS.shape and low.pixels.dtype == np.uint8
    assert low.size < high.size and psnr(X, batch(low.pixels)) < psnr(X, batch(high.pixels))


@pytest.mark.parametrize("quality", [2, 30, 77])
def test_the_quality_found_is_the_lowest_that_is_large_enough(quality):
    size = jpeg(PIXELS, quality).size
    found = jpeg_of_size(PIXELS, size)
    assert found.size >= size and jpeg(PIXELS, found.quality - 1).size < size


def test_beyond_the_best_quality_the_best_is_taken():
    assert jpeg_of_size(PIXELS, 10**9).quality == 95
