"""Reads image files to `ImageData`.

PNG, JPEG, WebP, TIFF, PPM, PGM, PBM, BMP, AVIF (Pillow 11.3 or later) and JPEG XL (with pillow-jxl-plugin), identified by their
content. dkic codes 8-bit RGB and grayscale. The EXIF orientation is applied. Color descriptions become an ICC profile, whatever
their form in the file (`dkic.coding.image_color`). Alpha is dropped if all of it is opaque; other transparency, more than 8 bits,
signed and float samples, CMYK, HDR and animations are refused, with what to do.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from PIL import Image

from dkic.coding.avif_properties import avif_properties
from dkic.coding.cicp import Cicp
from dkic.coding.image_color import bmp_profile
from dkic.coding.image_data import ImageData
from dkic.coding.image_formats import AVIF, BMP, JXL, PNG, ImageFormat, format_names, format_of
from dkic.coding.jxl_header import jxl_header
from dkic.coding.pil_pixels import SEVERAL_FRAMES, TOO_MANY_BITS, pil_pixels
from dkic.coding.pillow_guard import pillow_guard
from dkic.coding.png_chunks import PngChunks
from dkic.errors import DkicError
from dkic.streams import open_input

_HEAD_BYTES = 32
_PARSED_HERE = (PNG, AVIF, JXL)  # formats with properties that Pillow does not show


def read_image(path: str | os.PathLike[str], background: str | None = None) -> ImageData:
    """The image in the file at `path`, upright.

    Args:
        background: color that transparency is flattened onto, as Pillow names colors ("white", "#ffffff"); None: transparency is
            an error.

    Raises:
        DkicError: a sentence that begins with the path.
    """
    with pillow_guard(str(path)), open_input(path) as file:
        return _from_file(file, str(path), background)


def read_image_bytes(data: bytes, name: str, background: str | None = None) -> ImageData:
    """The image in the contents of a file, as `read_image` returns it. Raises DkicError, a sentence that begins with `name`."""
    with pillow_guard(name), io.BytesIO(data) as file:
        return _from_file(file, name, background)


def read_pil(pil: Image.Image, name: str, background: str | None = None) -> ImageData:
    """The image of a PIL image; see `dkic.coding.image_conversion.image_from`. Raises DkicError that begins with `name`."""
    with pillow_guard(name):
        cicp = None
        notes: Sequence[str] = ()
        found = next((known for known in _PARSED_HERE if known.pillow == pil.format), None)
        if found:
            data = _file_of(pil)
            if format_of(data[:_HEAD_BYTES]) is found:
                _, cicp, notes = _parsed(found, data, name)
        return pil_pixels(pil, name, background, cicp, notes)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height in the header of the file at `path`, before any orientation. Raises DkicError."""
    with pillow_guard(str(path)), open(path, "rb") as file:
        found = format_of(file.read(_HEAD_BYTES))
        file.seek(0)
        if found is None or found.unavailable_reason():
            raise DkicError(f"{path}: not a {format_names()} image; convert it to one of these formats")
        found.register()
        with Image.open(file, formats=(found.pillow,)) as pil:
            return pil.size


def _from_file(file: IO[bytes], name: str, background: str | None) -> ImageData:
    if not file.seekable() or file.tell():  # readers rewind a file to its beginning, not to its position here
        file = io.BytesIO(file.read())
    head = file.read(_HEAD_BYTES)
    file.seek(-len(head), os.SEEK_CUR)
    if not head:
        raise DkicError(f"{name}: the file is empty; get the whole file")
    found = format_of(head)
    if found is None:
        raise DkicError(f"{name}: not a {format_names()} image, or its header is damaged; convert it or get an undamaged file")
    if unavailable := found.unavailable_reason():
        raise DkicError(f"{name}: this is {found.label}, which can't be read; {unavailable}")
    found.register()
    cicp, icc = None, None
    notes: Sequence[str] = ()
    if found in _PARSED_HERE:
        data, cicp, notes = _parsed(found, file.read(), name)
        file = io.BytesIO(data)
    elif found is BMP:
        icc = bmp_profile(file)
    pil = Image.open(file, formats=(found.pillow,))
    if icc:
        pil.info["icc_profile"] = icc
    return pil_pixels(pil, name, background, cicp, notes)


def _parsed(found: ImageFormat, data: bytes, name: str) -> tuple[bytes, Cicp | None, Sequence[str]]:
    """The bytes for Pillow to read, the color description that it does not show, and notes as in `ImageData`.

    Raises DkicError if the file is damaged, or dkic does not code such an image.
    """
    if found is PNG:
        chunks = PngChunks(data, name)
        return chunks.data, chunks.cicp, chunks.notes
    if found is AVIF:
        properties = avif_properties(data)
        if properties.bits > 8:
            raise DkicError(f"{name}: {TOO_MANY_BITS}")
        return data, properties.cicp, ()
    header = jxl_header(data)
    if header.is_animation:
        raise DkicError(f"{name}: {SEVERAL_FRAMES}")
    if header.bits > 8 or header.is_float:
        raise DkicError(f"{name}: {TOO_MANY_BITS}")
    return data, None, ()


def _file_of(pil: Image.Image) -> bytes:
    """Contents of an opened image's file; empty if they are no longer available."""
    try:
        if filename := getattr(pil, "filename", ""):
            return Path(filename).read_bytes()
        file = getattr(pil, "fp", None)
        if file is None or not file.seekable():
            return b""
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        return data
    except (OSError, ValueError):  # deleted, or closed
        return b""
