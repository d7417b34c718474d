"""Distortion of a decoded picture against its original, on 8-bit pixels as everybody reports it."""

import math

import numpy as np

# Five scales of an 11-pixel window need more than 160 pixels along each side.
MS_SSIM_LEAST_SIDE = 161


def psnr(original: np.ndarray, decoded: np.ndarray) -> float:
    """PSNR in dB of two uint8 `[H, W, 3]` pictures over all channels; infinite where they are equal."""
    _check(original, decoded)
    mse = np.square(original.astype(np.float64) - decoded).mean()
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def ms_ssim(original: np.ndarray, decoded: np.ndarray) -> float:
    """MS-SSIM (Wang et al. 2003) of two uint8 `[H, W, 3]` pictures, the mean over RGB, by pytorch-msssim.

    NaN where a side is below 161 pixels, for which it is not defined.
    """
    import torch
    from pytorch_msssim import ms_ssim as of_batches

    _check(original, decoded)
    if min(original.shape[:2]) < MS_SSIM_LEAST_SIDE:
        return math.nan
    pair = [torch.from_numpy(p.copy()).permute(2, 0, 1).unsqueeze(0).float() for p in (original, decoded)]
    return of_batches(*pair, data_range=255).item()


def _check(original: np.ndarray, decoded: np.ndarray) -> None:
    for name, p in (("original", original), ("decoded", decoded)):
        if p.dtype != np.uint8 or p.ndim != 3 or p.shape[2] != 3 or p.shape != original.shape:
            raise ValueError(f"{name} must be uint8 {list(original.shape[:2])} x 3, and is {p.dtype} {list(p.shape)}")
