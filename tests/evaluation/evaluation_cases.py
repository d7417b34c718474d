"""Measurements made up for tests."""

import math
from collections.abc import Sequence

import numpy as np

from dkic.evaluation.measure import Measurement


def measurement(codec: str = "c", image: str = "a", quality: int = 1, **more: float) -> Measurement:
    fields = dict(
        width=100, height=80, file="f", bytes=100, bpp=0.1, psnr=30.0, ms_ssim=0.9, lpips=0.2, lpips_vgg=math.nan,
        dists=math.nan, ssimulacra2=math.nan, encode_seconds=1.0, decode_seconds=0.5,
    )  # fmt: skip
    return Measurement(codec=codec, image=image, quality=quality, **fields | more)


def measurements(rate: np.ndarray, lpips: np.ndarray, codec: str = "c", **more: Sequence[float]) -> list[Measurement]:
    """Of `[N, M]` bpp and LPIPS, picture by picture, as `measure` returns them."""
    return [
        measurement(codec, f"p{i}", j, bpp=rate[i, j], lpips=lpips[i, j], psnr=30 - 20 * lpips[i, j], file=f"{codec}/{i}-{j}")
        for i, j in np.ndindex(rate.shape)
    ]
