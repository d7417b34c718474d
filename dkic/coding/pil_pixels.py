"""PIL images to `ImageData`: refuses what is not 8-bit RGB or grayscale, rotates upright, flattens transparency."""

from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from dkic.coding.cicp import Cicp
from dkic.coding.container import check_size
from dkic.coding.image_color import described_profile, tiff_tags
from dkic.coding.image_data import ImageData
from dkic.coding.image_formats import JXL
from dkic.errors import DkicError

SEVERAL_FRAMES = "it has several frames or pages; extract one, for example `magick 'IN[0]' OUT`"
TOO_MANY_BITS = "it has more than 8 bits a channel; convert it first, for example `magick IN -depth 8 OUT.png`"
_MODES = ("1", "L", "P", "RGB", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")
_TIFF_BITS_PER_SAMPLE, _TIFF_SAMPLE_FORMAT, _TIFF_SIGNED = 258, 339, 2


def pil_pixels(
    pil: Image.Image, name: str, background: str | None, cicp: Cicp | None = None, notes: Sequence[str] = ()
) -> ImageData:
    """The image of a PIL image.

    Args:
        name: begins the message of an error.
        background: as in `read_image`.
        cicp: the color description of its file, where Pillow does not show it.
        notes: further notes of the result.

    Raises:
        DkicError: the image is not one that dkic codes.
    """
    check_size(pil.width, pil.height, f"{name}: the image")
    if refusal := _refusal(pil):
        raise DkicError(f"{name}: {refusal}")
    transparent_gray = _scaled_transparent_gray(pil)
    pil.load()
    upright = _upright(pil)
    if transparent_gray is not None:
        upright = upright.copy()
        upright.info["transparency"] = transparent_gray
    if upright.has_transparency_data:
        upright = _flattened(upright, name, background)
    grayscale = upright.mode in ("1", "L")
    try:
        icc, dropped = described_profile(pil, grayscale, cicp)
    except ValueError as error:
        raise DkicError(f"{name}: {error}; convert it to 8-bit sRGB first") from None
    notes = (*notes, *dropped)
    mode = "L" if grayscale else "RGB"
    pixels = np.array(upright if upright.mode == mode else upright.convert(mode))
    return ImageData.from_gray(pixels, icc, notes) if grayscale else ImageData(pixels, icc=icc, notes=notes)


def opaque_color(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a color as Pillow names it. Raises DkicError if there is none, or it is not opaque."""
    try:
        color: tuple[int, ...] = ImageColor.getrgb(name)
    except ValueError:
        color = ()
    if color[3:] not in ((), (255,)) or not color:
        raise DkicError(f"background: {name!r} is not an opaque color; use a name such as white, or #rrggbb")
    red, green, blue = color[:3]
    return red, green, blue


def _refusal(pil: Image.Image) -> str | None:
    """Why dkic doesn't code an image and what to do, or None."""
    # An MPO is a JPEG followed by a preview or depth map; its first frame is the photograph.
    if getattr(pil, "n_frames", 1) > 1 and pil.format != "MPO":
        return SEVERAL_FRAMES
    if pil.mode in ("I", "F") or pil.mode.startswith("I;") or _bits(pil) > 8:
        return TOO_MANY_BITS
    if _TIFF_SIGNED in tiff_tags(pil).get(_TIFF_SAMPLE_FORMAT, ()):
        return "its samples are signed; convert them to unsigned 8-bit first"
    if pil.mode not in _MODES:
        return f"it is {pil.mode}; convert it to RGB first, for example `magick IN -colorspace sRGB OUT`"
    return None


def _bits(pil: Image.Image) -> int:
    """Bits a channel in the file, which Pillow may show as an 8-bit mode; 8 without a file."""
    if pil.format == "TIFF":
        return max(tiff_tags(pil).get(_TIFF_BITS_PER_SAMPLE, (8,)))
    tiles = getattr(pil, "tile", None)
    args = tiles[0][3] if tiles else None
    if pil.format == "PNG" and ";16" in str(args):
        return 16
    if pil.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255:
        return 16
    return 8


def _scaled_transparent_gray(pil: Image.Image) -> int | None:
    """The transparent value of a 2- or 4-bit gray PNG scaled to 8 bits; Pillow scales only the pixels."""
    tiles, value = getattr(pil, "tile", None), pil.info.get("transparency")
    if pil.format != "PNG" or not tiles or not isinstance(value, int):
        return None
    most = {"L;2": 3, "L;4": 15}.get(str(tiles[0][3]))
    return None if most is None else value * 255 // most


def _upright(pil: Image.Image) -> Image.Image:
    # Images that Pillow derived from a file's have no format: their pixels are what the caller sees. JPEG XL is rotated by its
    # decoder, except for a transcoded JPEG.
    if pil.format is None or (pil.format == JXL.pillow and not getattr(pil, "jpeg", False)):
        return pil
    try:
        return ImageOps.exif_transpose(pil) if pil.getexif().get(ExifTags.Base.Orientation, 1) != 1 else pil
    except MemoryError:
        raise  # of the rotated pixels
    except Exception:  # Pillow raises anything on damaged metadata
        return pil  # beside valid pixels; viewers ignore it


def _flattened(pil: Image.Image, name: str, background: str | None) -> Image.Image:
    """Without alpha: the colors if all are opaque, otherwise over the background. Raises DkicError if there is none."""
    gray = pil.mode in ("1", "L", "LA", "La")
    rgba = (pil.convert("LA") if pil.mode == "La" else pil).convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        if background is None:
            repair = 'give the color behind it, for example --background white (background="white" in Python)'
            raise DkicError(f"{name}: it has transparency; {repair}")
        color = opaque_color(background)
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, color), rgba)
        gray = gray and len(set(color)) == 1
    rgb = rgba.convert("RGB")
    return rgb.getchannel("R") if gray else rgb
