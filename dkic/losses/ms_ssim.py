"""Structural similarity of luma at several scales, which weights errors by the contrast around them."""

from functools import cache

import torch
from pytorch_msssim import ssim
from torch import Tensor
from torch.nn import functional as F

# Exponents of MS-SSIM (Wang et al. 2003) at 1/2, 1/4, 1/8 and 1/16 of the size. The full size has 0.0448 there, and would take
# three quarters of the time.
SCALE_WEIGHTS = (0.2856, 0.3001, 0.2363, 0.1333)
# 7 pixels instead of the paper's 11, so that crops of 128 pixels have all scales.
WINDOW = 7
LEAST_SIDE = WINDOW * 2 ** len(SCALE_WEIGHTS)


def ms_ssim_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Weighted mean of 1 - SSIM of luma at 1/2, 1/4, 1/8 and 1/16 of the size: `[N]`, differentiable in both.

    MS-SSIM itself is a geometric mean, whose gradient is NaN where a scale's structural term is negative.

    Args:
        x, x_hat: `[N, 3, H, W]` in [0, 1], of one shape, sides of at least 112.
    """
    y, y_hat = _luma(x), _luma(x_hat)
    total = x.new_zeros(len(x), dtype=torch.float32)
    for weight in SCALE_WEIGHTS:
        y, y_hat = F.avg_pool2d(y, 2), F.avg_pool2d(y_hat, 2)
        total = total + weight * (1 - ssim(y, y_hat, data_range=1, size_average=False, win=_window(x.device)))
    return total / sum(SCALE_WEIGHTS)


def _luma(x: Tensor) -> Tensor:
    """Luma of ITU-R BT.601 in float32, `[N, 1, H, W]`."""
    r, g, b = x.float().split(1, dim=1)
    return 0.299 * r + 0.587 * g + 0.114 * b


@cache
def _window(device: torch.device) -> Tensor:
    """A Gaussian window with a standard deviation of 1.5 pixels, `[1, 1, 1, WINDOW]`."""
    taps = torch.exp(-((torch.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * 1.5**2))
    return (taps / taps.sum()).view(1, 1, 1, WINDOW).to(device)
