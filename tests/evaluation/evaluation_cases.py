"""Artificial measurements for tests."""

import math
from collections.abc import Sequence

import numpy as np

from dkic.evaluation.measured_files import MeasuredFile
from dkic.evaluation.metric_registry import METRICS


def measurement(codec: str = "c", image: str = "a", quality: int = 1, bpp: float = 0.1, **more: float) -> MeasuredFile:
    """more: scores, and fields of `MeasuredFile`."""
    scores = dict.fromkeys(METRICS, math.nan) | {"psnr": 30.0, "ms_ssim": 0.9, "lpips": 0.2}
    scores |= {name: more.pop(name) for name in METRICS if name in more}
    fields = {"width": 100, "height": 80, "file": "f", "encode_seconds": 1.0, "decode_seconds": 0.5} | more
    # 8 pixels: the bits per pixel are the bytes exactly.
    return MeasuredFile(8, bpp, scores, codec=codec, image=image, quality=quality, **fields)


def measurements(rate: np.ndarray, lpips: np.ndarray, codec: str = "c", **more: Sequence[float]) -> list[MeasuredFile]:
    """Of `[N, M]` bpp and LPIPS, image by image, as `measure_files` returns them."""
    return [
        measurement(codec, f"p{i}", j, bpp=rate[i, j], lpips=lpips[i, j], psnr=30 - 20 * lpips[i, j], file=f"{codec}/{i}-{j}")
        for i, j in np.ndindex(rate.shape)
    ]
