"""`ImageData`, an 8-bit image as the codec takes and returns it, and the same as a PIL image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dkic.coding.container import check_size
from dkic.errors import DkicError


@dataclass(frozen=True, eq=False)
class ImageData:
    """An 8-bit RGB or grayscale image.

    Args:
        pixels: uint8 `[H, W, 3]`, RGB; if grayscale, the three channels are equal and one is written.
        icc: ICC profile of the pixels; None for sRGB.
        notes: what was dropped when the image was read, a sentence each.

    Raises:
        DkicError: other pixels, or more than MAX_PIXELS of them.
    """

    pixels: np.ndarray
    grayscale: bool = False
    icc: bytes | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
            raise DkicError(f"ImageData: pixels must be uint8 [H, W, 3], not {dtype} {list(shape)}")
        check_size(shape[1], shape[0])

    @classmethod
    def from_gray(cls, gray: np.ndarray, icc: bytes | None = None, notes: tuple[str, ...] = ()) -> "ImageData":
        """A grayscale image of uint8 `[H, W]`."""
        return cls(np.repeat(gray[:, :, None], 3, axis=2), grayscale=True, icc=icc, notes=notes)

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]


def to_pil(image: ImageData) -> Image.Image:
    """`image` as a PIL image of mode RGB, or L if it is grayscale; the profile is in `info["icc_profile"]`."""
    pil = Image.fromarray(np.ascontiguousarray(image.pixels[:, :, 0] if image.grayscale else image.pixels))
    if image.icc:
        pil.info["icc_profile"] = image.icc
    return pil
