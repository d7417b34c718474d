"""PSNR and MS-SSIM against values known beforehand."""

import math

import numpy as np
import pytest
from photographs import crop

from dkic.evaluation.metrics import ms_ssim, psnr


def flat(value: int, side: int = 176) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.mark.parametrize(("difference", "expected"), [(1, 48.1308), (2, 42.1102), (5, 34.1514), (16, 24.0484), (255, 0.0)])
def test_psnr_of_a_constant_difference(difference, expected):
    assert psnr(flat(0), flat(difference)) == pytest.approx(expected, abs=1e-4)
    assert psnr(flat(difference), flat(0)) == pytest.approx(expected, abs=1e-4)


def test_psnr_counts_every_channel():
    other = flat(100)
    other[:, :, 1] += 3
    assert psnr(flat(100), other) == pytest.approx(10 * math.log10(255**2 / 3))


def test_equal_pictures():
    picture = crop(176, 200)
    assert psnr(picture, picture) == math.inf
    assert ms_ssim(picture, picture) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(100, 120), (30, 60), (250, 10)])
def test_ms_ssim_of_flat_pictures_is_the_luminance_term_of_the_last_scale(a, b):
    c1 = (0.01 * 255) ** 2
    luminance = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ms_ssim(flat(a), flat(b)) == pytest.approx(luminance**0.1333, abs=5e-4)


def test_more_noise_is_less_alike():
    picture = crop(200, 180).astype(float)
    noise = np.random.default_rng(0).normal(size=picture.shape)
    noisy = [np.clip(np.rint(picture + level * noise), 0, 255).astype(np.uint8) for level in (0, 5, 15, 40)]
    for metric in (psnr, ms_ssim):
        values = [metric(noisy[0], other) for other in noisy]
        assert values == sorted(values, reverse=True) and len(set(values)) == 4


def test_ms_ssim_is_not_defined_for_small_pictures():
    assert math.isnan(ms_ssim(crop(160, 300), crop(160, 300)))
    assert ms_ssim(crop(161, 161), crop(161, 161)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
@pytest.mark.parametrize("other", [crop(20, 21), crop(20, 20).astype(float), crop(20, 20)[:, :, :1], crop(20, 20)[0]])
def test_other_shapes_and_types_are_refused(metric, other):
    with pytest.raises(ValueError, match="decoded must be uint8"):
        metric(crop(20, 20), other)
