"""Writes `ImageData` as image files, in the format of the file name's suffix.

PNG (.png), JPEG (.jpg, .jpeg, .jpe, .jfif; quality 95, 4:4:4), WebP (.webp; lossless), TIFF (.tif, .tiff; deflate), PPM (.ppm,
.pnm; .pgm and .pbm for grayscale, .pbm as .pgm), BMP (.bmp), AVIF (.avif; quality 100, 4:4:4), JPEG XL (.jxl; lossless).
"""

import io
import os
import struct
from pathlib import Path

from dkic.coding.color_profile import color_space
from dkic.coding.image_data import ImageData, to_pil
from dkic.coding.image_formats import FORMAT_BY_SUFFIX, WEBP
from dkic.errors import DkicError
from dkic.output_file import reason, write_atomically


def image_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of an image's file name, in lower case. Raises DkicError if `write_image` can't write its format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMAT_BY_SUFFIX:
        raise DkicError(f"{path}: the name must end in one of {', '.join(FORMAT_BY_SUFFIX)}")
    if unavailable := FORMAT_BY_SUFFIX[suffix].unavailable_reason():
        raise DkicError(f"{path}: can't be written; {unavailable}")
    return suffix


def write_image(image: ImageData, path: str | os.PathLike[str], force: bool = False, suffix: str | None = None) -> list[str]:
    """Writes `image` to `path` with `write_atomically`, in the format of its suffix or of the given one.

    A grayscale image is written with one channel; WebP always has three.

    Returns:
        A sentence for each thing that the file can't hold: an ICC profile.
    """
    data, notes = encode_image(image, suffix or image_suffix(path), str(path))
    write_atomically(path, data, force)
    return notes


def encode_image(image: ImageData, suffix: str, name: str) -> tuple[bytes, list[str]]:
    """Contents of an image file in the format of the suffix, and notes as `write_image` returns them.

    Args:
        name: begins the message of an error.

    Raises:
        DkicError: the format can't be written here, or does not hold such an image.
    """
    target = FORMAT_BY_SUFFIX[suffix]
    if unavailable := target.unavailable_reason():
        raise DkicError(f"{name}: {target.label} can't be written; {unavailable}")
    if suffix in (".pgm", ".pbm") and not image.grayscale:
        raise DkicError(f"{name}: {suffix} holds only grayscale, and the image has colors; use .ppm")
    space = "GRAY" if image.grayscale and target is not WEBP else "RGB"
    icc, notes = image.icc, []
    if icc and not (target.holds_profile and color_space(icc) == space):
        why = f"holds none for {color_space(icc)} pixels" if target.holds_profile else "holds none"
        icc, notes = None, [f"the ICC profile was dropped: {target.label}, as it is written here, {why}"]
    options = target.options | ({} if image.grayscale else target.color_options)
    if target.holds_profile:
        options["icc_profile"] = icc
    target.register()
    content = io.BytesIO()  # when writing to a file, Pillow bypasses Python and ignores a full disk
    pil = to_pil(image)
    pil.info.clear()
    try:
        pil.save(content, target.pillow, **options)
    except (ValueError, OverflowError, OSError, RuntimeError, struct.error) as error:
        raise DkicError(f"{name}: can't be written as {target.label} ({reason(error)})") from error
    return content.getvalue(), notes
