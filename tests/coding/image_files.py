"""A small image and its files, for tests of reading and writing."""

import io

import numpy as np
from PIL import Image, ImageCms

from dkic.coding.color_profile import SRGB_CURVE, Primaries, make_profile

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DISPLAY_P3 = make_profile(SRGB_CURVE, Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)))


def colors(height: int = 11, width: int = 17) -> np.ndarray:
    """Smooth enough for JPEG, no two rows or columns alike, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width].astype(float)
    channels = [60 + 5 * x + 3 * y, 200 - 4 * x - 2 * y, 90 + 6 * y]
    return np.stack(channels, axis=2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def written(tmp_path, data: bytes, name: str = "image"):
    path = tmp_path / name
    path.write_bytes(data)
    return path
