"""Images in and out: files, PIL images, numpy arrays and torch tensors to 8-bit RGB pixels, and back.

Read: PNG, JPEG, WebP, TIFF, PPM, PGM, PBM, BMP, AVIF (Pillow 11.3 or later) and JPEG XL (with pillow-jxl-plugin), known by their
content. Written, by the file name's suffix: PNG (.png), JPEG (.jpg, .jpeg, .jpe, .jfif; quality 95, chroma not subsampled), WebP
(.webp; lossless), TIFF (.tif, .tiff; deflate), PPM (.ppm, .pnm; .pgm and .pbm for grayscale, .pbm as .pgm), BMP (.bmp), AVIF
(.avif; quality 100, chroma not subsampled), JPEG XL (.jxl; lossless).

What dkic codes is 8-bit RGB or grayscale. An EXIF orientation is applied. What gives the colors a meaning is kept as an ICC
profile, also where a file has it in another form (`dkic.coding.image_color`). Alpha is dropped where all of it is opaque; other
transparency, more than 8 bits, signed and float samples, CMYK, HDR and animations are refused, with what to do.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from dkic.coding.avif_properties import avif_properties
from dkic.coding.cicp import Cicp
from dkic.coding.color_profile import color_space
from dkic.coding.container import MAX_PIXELS, check_size
from dkic.coding.image_color import bmp_profile, described_profile, tiff_tags
from dkic.coding.image_formats import (
    AVIF,
    BMP,
    FORMAT_BY_SUFFIX,
    JXL,
    PNG,
    WEBP,
    ImageFormat,
    format_names,
    format_of,
)
from dkic.coding.jxl_header import jxl_header
from dkic.coding.png_chunks import PngChunks
from dkic.errors import DkicError
from dkic.output_file import reason, write_atomically
from dkic.streams import open_input

if TYPE_CHECKING:
    import torch

_TIFF_BITS_PER_SAMPLE, _TIFF_SAMPLE_FORMAT, _TIFF_SIGNED = 258, 339, 2
_EXIF_ORIENTATION = 0x0112
_HEAD_BYTES = 32


@dataclass(frozen=True, eq=False)
class Picture:
    """An 8-bit picture as dkic codes it.

    pixels: uint8 [H, W, 3], RGB; grayscale: the three channels are equal, and one is written; icc: the ICC
    profile that says what the colours mean, or None for sRGB; notes: what was left out when it was read, a sentence each.
    Raises DkicError for other pixels, or more than MAX_PIXELS of them.
    """

    pixels: np.ndarray
    grayscale: bool = False
    icc: bytes | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
            raise DkicError(f"a Picture's pixels must be uint8 [H, W, 3], not {dtype} {list(shape)}")
        check_size(shape[1], shape[0])

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]


def read_picture(path: str | os.PathLike[str], background: str | None = None) -> Picture:
    """The image in the file at `path`, upright.

    background: what transparency is flattened onto, as Pillow names colors ("white", "#ffffff"); None: it is an error.

    Raises DkicError, a sentence that begins with the path.
    """
    with _pillow(str(path)), open_input(path) as file:
        return _from_file(file, str(path), background)


def parse_picture(data: bytes, name: str, background: str | None = None) -> Picture:
    """The image in the bytes of a file, as `read_picture` has it. Raises DkicError, a sentence that begins with `name`."""
    with _pillow(name), io.BytesIO(data) as file:
        return _from_file(file, name, background)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height as the head of the file at `path` has them, before any orientation. Raises DkicError."""
    with _pillow(str(path)), open(path, "rb") as file:
        found = format_of(file.read(_HEAD_BYTES))
        file.seek(0)
        if found is None or found.unavailable_reason():
            raise DkicError(f"{path}: this is not a {format_names()} picture")
        found.register()
        with Image.open(file, formats=(found.pillow,)) as image:
            return image.size


def picture_from(
    image: Picture | Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str],
    background: str | None = None,
) -> Picture:
    """The image that `image` is, or holds, or whose file it names.

    PIL: an EXIF orientation is applied to images straight from a file (`image.format` is set), whose pixels lie as they were
    stored, also after `thumbnail` and other work in place; not to those that Pillow made of them (by resize, crop, convert, copy
    ...), which keep the tag but are what the caller sees: call `ImageOps.exif_transpose` first. What Pillow does not show of a
    PNG, AVIF or JPEG XL (checksums, color descriptions, bits) is read from its file where that is still there.

    numpy: uint8 [H, W, 3], [H, W, 1] or [H, W]; torch: [3, H, W] or [1, H, W], uint8, or floating point in [0, 1], which is
    rounded to 1/255, on any device; one channel is grayscale. Arrays may share their memory with the result.

    background: as in `read_picture`. Raises DkicError, which says what was wrong and what would be right.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        return read_picture(image, background)
    if isinstance(image, Image.Image):
        with _pillow("the image"):
            return _from_opened(image, "the image", background)
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    # Without torch imported it can't be a tensor, and torch is slow to import.
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
        return _from_torch(image)
    raise DkicError(
        f"a picture must be a path, a PIL image, a numpy array, a torch tensor or a Picture, not {type(image).__name__}"
    )


def to_pil(picture: Picture) -> Image.Image:
    """`picture` as a PIL image, RGB, or L where it is grayscale; the profile in `info["icc_profile"]`."""
    pixels = picture.pixels[:, :, 0] if picture.grayscale else picture.pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def picture_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of an image's file name, in lower case. Raises DkicError where `write_picture` writes no such format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMAT_BY_SUFFIX:
        raise DkicError(f"{path}: the name must end in one of {', '.join(FORMAT_BY_SUFFIX)}")
    if unavailable := FORMAT_BY_SUFFIX[suffix].unavailable_reason():
        raise DkicError(f"{path}: can't be written; {unavailable}")
    return suffix


def write_picture(picture: Picture, path: str | os.PathLike[str], force: bool = False, suffix: str | None = None) -> list[str]:
    """Writes `picture` to `path` in the format of its suffix, or of another one, whole or not at all; see `write_atomically`.

    A grayscale picture is written with one channel; WebP always has three.

    Returns:
        A sentence for each thing that such a file can't hold: an ICC profile.
    """
    data, notes = encoded_picture(picture, suffix or picture_suffix(path), str(path))
    write_atomically(path, data, force)
    return notes


def encoded_picture(picture: Picture, suffix: str, name: str) -> tuple[bytes, list[str]]:
    """The bytes of an image file in the format of the suffix, and notes as `write_picture` returns them. Raises DkicError."""
    target = FORMAT_BY_SUFFIX[suffix]
    if unavailable := target.unavailable_reason():
        raise DkicError(f"{name}: {target.label} can't be written; {unavailable}")
    if suffix in (".pgm", ".pbm") and not picture.grayscale:
        raise DkicError(f"{name}: a {suffix} holds grayscale only, and the picture has colours; take .ppm")
    space = "GRAY" if picture.grayscale and target is not WEBP else "RGB"
    icc, notes = picture.icc, []
    if icc and not (target.holds_profile and color_space(icc) == space):
        why = f"holds none for {color_space(icc)} pixels" if target.holds_profile else "holds none"
        icc, notes = None, [f"the ICC profile was left out: {target.label}, as it is written here, {why}"]
    options = target.options | ({} if picture.grayscale else target.color_options)
    if target.holds_profile:
        options["icc_profile"] = icc
    target.register()
    content = io.BytesIO()  # into a file, Pillow would write past Python and take a full disk for success
    image = to_pil(picture)
    image.info.clear()
    try:
        image.save(content, target.pillow, **options)
    except (ValueError, OverflowError, OSError, RuntimeError, struct.error) as error:
        raise DkicError(f"{name}: can't be written as {target.label} ({reason(error)})") from error
    return content.getvalue(), notes


def _from_file(file: IO[bytes], name: str, background: str | None) -> Picture:
    if not file.seekable() or file.tell():  # readers go back to a file's beginning, not to where it was handed over
        file = io.BytesIO(file.read())
    head = file.read(_HEAD_BYTES)
    file.seek(-len(head), os.SEEK_CUR)
    if not head:
        raise DkicError(f"{name}: the file is empty, so it is not a picture")
    found = format_of(head)
    if found is None:
        raise DkicError(f"{name}: this is not a {format_names()} picture, or its beginning is damaged")
    if unavailable := found.unavailable_reason():
        raise DkicError(f"{name}: this is {found.label}, which can't be read; {unavailable}")
    found.register()
    cicp, icc = None, None
    notes: Sequence[str] = ()
    if found in _LOOKED_INTO:
        data, cicp, notes = _looked_into(found, file.read(), name)
        file = io.BytesIO(data)
    elif found is BMP:
        icc = bmp_profile(file)
    image = Image.open(file, formats=(found.pillow,))
    if icc:
        image.info["icc_profile"] = icc
    return _from_pil(image, name, background, cicp, notes)


_LOOKED_INTO = (PNG, AVIF, JXL)


def _looked_into(found: ImageFormat, data: bytes, name: str) -> tuple[bytes, Cicp | None, Sequence[str]]:
    """What Pillow does not show of a file in one of _LOOKED_INTO: its color description, and notes as a Picture has them.

    The bytes that are returned first are for Pillow to read. Raises DkicError where the file is damaged, or is not coded.
    """
    if found is PNG:
        chunks = PngChunks(data, name)
        return chunks.data, chunks.cicp, chunks.notes
    if found is AVIF:
        properties = avif_properties(data)
        if properties.bits > 8:
            raise DkicError(f"{name}: {_TOO_MANY_BITS}")
        return data, properties.cicp, ()
    header = jxl_header(data)
    if header.is_animation:
        raise DkicError(f"{name}: {_SEVERAL_FRAMES}")
    if header.bits > 8 or header.is_float:
        raise DkicError(f"{name}: {_TOO_MANY_BITS}")
    return data, None, ()


def _from_opened(image: Image.Image, name: str, background: str | None) -> Picture:
    """Of an image that the caller opened or made; what Pillow does not show of a file is read from it, if it is there."""
    cicp = None
    notes: Sequence[str] = ()
    found = next((known for known in _LOOKED_INTO if known.pillow == image.format), None)
    if found:
        data = _file_of(image)
        if format_of(data[:_HEAD_BYTES]) is found:
            _, cicp, notes = _looked_into(found, data, name)
    return _from_pil(image, name, background, cicp, notes)


def _file_of(image: Image.Image) -> bytes:
    """The bytes of an opened image's file; empty where they can't be had any more."""
    try:
        if filename := getattr(image, "filename", ""):
            return Path(filename).read_bytes()
        file = getattr(image, "fp", None)
        if file is None or not file.seekable():
            return b""
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        return data
    except (OSError, ValueError):  # gone, or closed
        return b""


def _from_pil(
    image: Image.Image, name: str, background: str | None, cicp: Cicp | None = None, notes: Sequence[str] = ()
) -> Picture:
    check_size(image.width, image.height, f"{name}: ")
    if refusal := _refusal(image):
        raise DkicError(f"{name}: {refusal}")
    transparent_gray = _scaled_transparent_gray(image)
    image.load()
    pixels = _upright(image)
    if transparent_gray is not None:
        pixels = pixels.copy()
        pixels.info["transparency"] = transparent_gray
    if pixels.has_transparency_data:
        pixels = _flattened(pixels, name, background)
    grayscale = pixels.mode in ("1", "L")
    try:
        icc, left_out = described_profile(image, grayscale, cicp)
    except ValueError as error:
        raise DkicError(f"{name}: {error}; convert it to 8-bit sRGB first") from None
    notes = (*notes, *left_out)
    mode = "L" if grayscale else "RGB"
    array = np.array(pixels if pixels.mode == mode else pixels.convert(mode))
    return _gray_picture(array, icc, notes) if grayscale else Picture(array, icc=icc, notes=notes)


_SEVERAL_FRAMES = "it has several frames or pages; give one, for example `magick 'IN[0]' OUT`"
_TOO_MANY_BITS = "it has more than 8 bits a channel; convert it first, for example `magick IN -depth 8 OUT.png`"
_MODES = ("1", "L", "P", "RGB", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")


def _refusal(image: Image.Image) -> str | None:
    """Why dkic doesn't code `image` and what to do, or None."""
    # An MPO is a JPEG with a preview or depth map behind it; its first frame is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        return _SEVERAL_FRAMES
    if image.mode in ("I", "F") or image.mode.startswith("I;") or _bits(image) > 8:
        return _TOO_MANY_BITS
    if _TIFF_SIGNED in tiff_tags(image).get(_TIFF_SAMPLE_FORMAT, ()):
        return "its samples are signed numbers; convert them to unsigned 8-bit ones first"
    if image.mode not in _MODES:
        return f"it is {image.mode}; convert it to RGB first, for example `magick IN -colorspace sRGB OUT`"
    return None


def _scaled_transparent_gray(image: Image.Image) -> int | None:
    """The transparent level of a gray PNG of 2 or 4 bits, on the scale of 8 bits, to which Pillow brings its pixels alone."""
    tiles, level = getattr(image, "tile", None), image.info.get("transparency")
    if image.format != "PNG" or not tiles or not isinstance(level, int):
        return None
    most = {"L;2": 3, "L;4": 15}.get(str(tiles[0][3]))
    return None if most is None else level * 255 // most


def _bits(image: Image.Image) -> int:
    """Bits a channel in the file, which Pillow may show as an 8-bit mode; 8 where there is no file to ask."""
    if image.format == "TIFF":
        return max(tiff_tags(image).get(_TIFF_BITS_PER_SAMPLE, (8,)))
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else None
    if image.format == "PNG" and ";16" in str(args):
        return 16
    if image.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255:
        return 16
    return 8


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's own images have no format: whoever made them of a file's saw the pixels as they are.
    if image.format is None:
        return image
    if image.format == JXL.pillow and not getattr(image, "jpeg", False):  # the decoder has turned it
        return image
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(_EXIF_ORIENTATION, 1) != 1 else image
    except Exception:
        # Damaged metadata beside sound pixels: viewers ignore it, and so do we.
        return image


def _flattened(image: Image.Image, name: str, background: str | None) -> Image.Image:
    """Without alpha: where it is opaque the colors alone, else over the background. Raises DkicError where there is none."""
    gray = image.mode in ("1", "L", "LA", "La")
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if rgba.getchannel("A").getextrema() != (255, 255):
        if background is None:
            repair = 'give the color behind it, for example --background white (background="white" in Python)'
            raise DkicError(f"{name}: it has transparency; {repair}")
        color = opaque_color(background)
        rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, color), rgba)
        gray = gray and len(set(color)) == 1
    rgb = rgba.convert("RGB")
    return rgb.getchannel("R") if gray else rgb


def opaque_color(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a color as Pillow names it. Raises DkicError where it is none, or not opaque."""
    try:
        color: tuple[int, ...] = ImageColor.getrgb(name)
    except ValueError:
        color = ()
    if color[3:] not in ((), (255,)) or not color:
        raise DkicError(f"background: {name!r} is not an opaque color; give a name such as white, or #rrggbb")
    red, green, blue = color[:3]
    return red, green, blue


def _from_numpy(array: np.ndarray) -> Picture:
    pixels = array[:, :, None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise DkicError(
            "a numpy picture must be uint8 [H, W, 3] or [H, W], channels last and no alpha, "
            f"not {array.dtype} {list(array.shape)}"
        )
    return _gray_picture(pixels[:, :, 0]) if pixels.shape[2] == 1 else Picture(np.ascontiguousarray(pixels))


def _from_torch(tensor: torch.Tensor) -> Picture:
    is_float = tensor.is_floating_point()
    is_bytes = tensor.dtype == sys.modules["torch"].uint8
    if not (is_float or is_bytes) or tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise DkicError(
            "a torch picture must be [3, H, W] or [1, H, W], uint8 or floating point in [0, 1], "
            f"with neither batch nor alpha, not {tensor.dtype} {list(tensor.shape)}"
        )
    check_size(tensor.shape[2], tensor.shape[1])
    tensor = tensor.detach().cpu()
    array = tensor.float().numpy() if is_float else tensor.numpy()
    if is_float:
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # so that NaN fails
            raise DkicError(
                f"a floating-point torch picture must lie in [0, 1], not in [{low:g}, {high:g}]; "
                "scale it, or clamp it with x.clamp(0, 1)"
            )
        array = np.rint(array * 255).astype(np.uint8)
    return _from_numpy(array.transpose(1, 2, 0))


def _gray_picture(gray: np.ndarray, icc: bytes | None = None, notes: tuple[str, ...] = ()) -> Picture:
    return Picture(np.repeat(gray[:, :, None], 3, axis=2), grayscale=True, icc=icc, notes=notes)


_pillow_lock = threading.Lock()
_pillow_users = 0
_pillow_restore = contextlib.ExitStack()


@contextlib.contextmanager
def _pillow(name: str) -> Iterator[None]:
    """Pillow may read MAX_PIXELS inside it, and what goes wrong is a DkicError that begins with `name`.

    Pillow's guard against decompression bombs is one number a process: it warns above 89 million pixels and
    fails above twice that, which dkic codes. It also warns of odd metadata, which dkic doesn't use. Threads
    may be inside together; the last puts the number and the warnings back.
    """
    global _pillow_users
    with _pillow_lock:
        if _pillow_users == 0:
            _pillow_restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _pillow_restore.enter_context(warnings.catch_warnings())
            Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _pillow_users += 1
    try:
        yield
    except DkicError:
        raise
    except Image.DecompressionBombError as error:
        raise DkicError(f"{name}: the picture has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise DkicError(f"{name}: this is not a {format_names()} picture, or its beginning is damaged") from error
    except Exception as error:
        # A damaged file makes Pillow's readers raise anything: SyntaxError, struct.error, MemoryError ...
        raise DkicError(f"{name}: can't be read as a picture ({reason(error)})") from error
    finally:
        with _pillow_lock:
            _pillow_users -= 1
            if _pillow_users == 0:
                _pillow_restore.close()
