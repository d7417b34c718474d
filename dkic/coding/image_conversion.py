"""`image_from`: paths, PIL images, numpy arrays and torch tensors to `ImageData`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dkic.coding.container import check_size
from dkic.coding.image_data import ImageData
from dkic.coding.image_reading import read_image, read_pil
from dkic.errors import DkicError

if TYPE_CHECKING:
    import torch


def image_from(
    image: ImageData | Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str],
    background: str | None = None,
) -> ImageData:
    """The image that `image` holds, or whose file it names.

    Args:
        image: a path, or one of

            * PIL: the EXIF orientation is applied if the image comes straight from a file (`image.format` is set), also after
              `thumbnail` and other in-place operations. It is not applied to images that Pillow derived (by resize, crop,
              convert, copy ...), which keep the tag: call `ImageOps.exif_transpose` first. What Pillow does not show of a PNG,
              AVIF or JPEG XL (checksums, color descriptions, bits) is read from its file if that still exists.
            * numpy: uint8 `[H, W, 3]`, `[H, W, 1]` or `[H, W]`. The result may share its memory.
            * torch: `[3, H, W]` or `[1, H, W]`, uint8, or floating point in [0, 1], which is rounded to 1/255; on any device.

            One channel is grayscale.
        background: as in `read_image`.

    Raises:
        DkicError: no such image; the message says what was wrong and what would be right.
    """
    if isinstance(image, ImageData):
        return image
    if isinstance(image, str | os.PathLike):
        return read_image(image, background)
    if isinstance(image, Image.Image):
        return read_pil(image, "the image", background)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    # If torch is not imported, it can't be a tensor; importing torch is slow.
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
        return _from_torch(image)
    raise DkicError(f"image: must be a path, a PIL image, a numpy array, a torch tensor or ImageData, not {type(image).__name__}")


def _from_numpy(array: np.ndarray) -> ImageData:
    pixels = array[:, :, None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DkicError(
            "image: a numpy array must be uint8 [H, W, 3] or [H, W], channels last, without alpha, "
            f"not {array.dtype} {list(array.shape)}"
        )
    return ImageData.from_gray(pixels[:, :, 0]) if pixels.shape[2] == 1 else ImageData(np.ascontiguousarray(pixels))


def _from_torch(tensor: torch.Tensor) -> ImageData:
    is_float = tensor.is_floating_point()
    is_bytes = tensor.dtype == sys.modules["torch"].uint8
    if not (is_float or is_bytes) or tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise DkicError(
            "image: a torch tensor must be [3, H, W] or [1, H, W], uint8 or floating point in [0, 1], "
            f"without batch or alpha, not {tensor.dtype} {list(tensor.shape)}"
        )
    check_size(tensor.shape[2], tensor.shape[1])
    tensor = tensor.detach().cpu()
    array = tensor.float().numpy() if is_float else tensor.numpy()
    if is_float:
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # written so that NaN fails
            raise DkicError(
                f"image: a floating-point torch tensor must be in [0, 1], not in [{low:g}, {high:g}]; "
                "scale it, or clamp it with x.clamp(0, 1)"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return _from_numpy(array.transpose(1, 2, 0))
