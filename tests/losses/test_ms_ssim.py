"""The distance of luma by structural similarity at several scales."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from dkic.losses.ms_ssim import LEAST_SIDE, SCALE_WEIGHTS, ms_ssim_distance


def images(seed: int, noise: float, side: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, side, side, generator=generator)
    return x, (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def by_numpy(x: np.ndarray, x_hat: np.ndarray) -> float:
    """The same in float64, with a window of 7x7 instead of two of 7."""
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(image: np.ndarray) -> np.ndarray:
        return convolve2d(image, window, mode="valid")

    a, b = (np.tensordot([0.299, 0.587, 0.114], image.astype(np.float64), 1) for image in (x, x_hat))
    total = 0.0
    for weight in SCALE_WEIGHTS:
        a, b = (image.reshape(len(image) // 2, 2, -1, 2).mean((1, 3)) for image in (a, b))
        luminance = (2 * mean(a) * mean(b) + 0.01**2) / (mean(a) ** 2 + mean(b) ** 2 + 0.01**2)
        covariance = mean(a * b) - mean(a) * mean(b)
        variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
        total += weight * (1 - (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean())
    return total / sum(SCALE_WEIGHTS)


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_equals_the_formula(noise):
    x, x_hat = images(1, noise)
    expected = [by_numpy(a, b) for a, b in zip(x.numpy(), x_hat.numpy(), strict=True)]
    assert ms_ssim_distance(x, x_hat).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_is_zero_for_equal_images_and_at_most_two_for_inverted_ones():
    x, _ = images(2, 0)
    assert ms_ssim_distance(x, x).abs().max() < 1e-5
    assert (ms_ssim_distance(x, 1 - x) > 1).all() and (ms_ssim_distance(x, 1 - x) < 2).all()


def test_the_gradient_is_finite_where_structures_are_inverted():
    x, _ = images(3, 0)
    x_hat = (1 - x).requires_grad_()
    ms_ssim_distance(x, x_hat).sum().backward()
    assert x_hat.grad.isfinite().all() and x_hat.grad.abs().max() > 0


def test_an_error_counts_more_where_the_contrast_is_low():
    generator = torch.Generator().manual_seed(4)
    texture = torch.nn.functional.interpolate(torch.randn(1, 3, 32, 32, generator=generator), scale_factor=4)
    error = 0.01 * torch.nn.functional.interpolate(torch.randn(1, 3, 32, 32, generator=generator), scale_factor=4)
    low, high = 0.5 + 0.01 * texture, 0.5 + 0.1 * texture
    assert ms_ssim_distance(low, low + error) > 4 * ms_ssim_distance(high, high + error)


def test_the_least_side_has_all_scales():
    x, x_hat = images(5, 0.1, LEAST_SIDE)
    assert ms_ssim_distance(x, x_hat).isfinite().all()
    assert ms_ssim_distance(x.bfloat16(), x_hat.bfloat16()).dtype == torch.float32
