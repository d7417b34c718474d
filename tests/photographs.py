"""The photograph that ships with dkic, and crops of it: real pixels for tests, in any small size."""

from functools import lru_cache

import numpy as np

from dkic.coding.image_reading import read_image
from dkic.demo import PHOTO


@lru_cache(maxsize=1)
def photograph() -> np.ndarray:
    """uint8 `[512, 768, 3]`, read-only."""
    pixels = read_image(PHOTO).pixels
    pixels.flags.writeable = False
    return pixels


def crop(height: int, width: int, top: int = 150, left: int = 300) -> np.ndarray:
    """uint8 `[height, width, 3]`, a copy; it must lie inside the photograph."""
    pixels = photograph()[top : top + height, left : left + width].copy()
    assert pixels.shape == (height, width, 3)
    return pixels
