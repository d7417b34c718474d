"""Classical codecs to compare with."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image


class Coded(NamedTuple):
    """size: bytes of the file; pixels: what it decodes to, uint8 `[H, W, 3]`; quality: the encoder's setting."""

    size: int
    pixels: np.ndarray
    quality: int


def jpeg(pixels: np.ndarray, quality: int) -> Coded:
    """JPEG by Pillow, at its best for small files: optimised Huffman tables, progressive, 4:2:0."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, optimize=True, progressive=True, subsampling="4:2:0")
    size = file.tell()
    return Coded(size, np.asarray(Image.open(file).convert("RGB")), quality)


def jpeg_of_size(pixels: np.ndarray, size: int) -> Coded:
    """The lowest JPEG quality whose file has at least `size` bytes, so JPEG never gets fewer bits; at most 95."""
    low, high = 1, 95
    while low < high:
        middle = (low + high) // 2
        if jpeg(pixels, middle).size < size:
            low = middle + 1
        else:
            high = middle
    return jpeg(pixels, low)
