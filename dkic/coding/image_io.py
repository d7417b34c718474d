"""Pictures in and out: files, PIL images, numpy arrays and torch tensors to 8-bit RGB pixels, and back.

Read: PNG, JPEG, WebP, TIFF, PPM, PGM, PBM and BMP, known by their content. Written, by the file name's
suffix: PNG (.png), JPEG (.jpg, .jpeg; quality 95, chroma not subsampled), WebP (.webp; lossless), TIFF (.tif,
.tiff; deflate), PPM (.ppm, .pnm; .pgm for grayscale), BMP (.bmp).

What dkic codes is 8-bit RGB or grayscale. An EXIF orientation is applied, an ICC profile kept (PPM and BMP
hold none). Alpha, 16-bit, float and CMYK pictures and animations are refused, with what to do, rather than
quietly changed.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dkic.coding.container import MAX_PIXELS, check_size
from dkic.errors import DkicError
from dkic.output_file import reason, write_atomically

if TYPE_CHECKING:
    import torch

_READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP")
# Of the files that are taken for pictures where a folder is given.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".ppm", ".bmp")

# Suffix -> Pillow's format name and options.
_WRITE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".ppm": ("PPM", {}),
    ".pnm": ("PPM", {}),
    ".pgm": ("PPM", {}),
    ".bmp": ("BMP", {}),
}

# EXIF orientation -> what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258


@dataclass(frozen=True, eq=False)
class Picture:
    """An 8-bit picture as dkic codes it.

    pixels: uint8 [H, W, 3], RGB; grayscale: the three channels are equal, and one is written; icc: the ICC
    profile that says what the colours mean, or None. Raises DkicError for other pixels, or more than
    MAX_PIXELS of them.
    """

    pixels: np.ndarray
    grayscale: bool = False
    icc: bytes | None = None

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


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """The picture in the file at `path`, upright. Raises DkicError, a sentence that begins with the path."""
    with _pillow(str(path)), open(path, "rb") as file:
        return _from_file(file, str(path))


def parse_picture(data: bytes, name: str) -> Picture:
    """The picture in the bytes of a file, upright. Raises DkicError, a sentence that begins with `name`."""
    with _pillow(name), io.BufferedReader(io.BytesIO(data)) as file:
        return _from_file(file, name)


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures in a folder, by their names' suffixes and in order; none that is hidden or in a folder below.

    Raises DkicError where there is none, or no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DkicError(f"{folder}: there is no such folder of pictures")
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        raise DkicError(f"{folder}: can't be read ({reason(error)})") from None
    if not found:
        raise DkicError(f"{folder}: no pictures ({', '.join(SUFFIXES)}) in it")
    return found


def picture_from(
    image: Picture | Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str],
) -> Picture:
    """The picture that `image` is, or holds, or whose file it names.

    numpy: uint8 [H, W, 3], [H, W, 1] or [H, W]; torch: [3, H, W] or [1, H, W], uint8, or floating point in
    [0, 1], which is rounded to 1/255, on any device; one channel is grayscale. Arrays may share their memory
    with the result. Raises DkicError, which says what was wrong and what would be right.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        return read_picture(image)
    if isinstance(image, Image.Image):
        with _pillow("the image"):
            return _from_pil(image, "the image")
    if isinstance(image, np.ndarray):
        return _from_numpy(image)
    # Without torch imported it can't be a tensor, and torch is slow to import.
    if "torch" in sys.modules and isinstance(image, sys.modules["torch"].Tensor):
        return _from_torch(image)
    raise DkicError(
        "a picture must be a path, a PIL image, a numpy array, a torch tensor or a Picture, "
        f"not {type(image).__name__}"
    )


def to_pil(picture: Picture) -> Image.Image:
    """`picture` as a PIL image, RGB, or L where it is grayscale; the profile in `info["icc_profile"]`."""
    pixels = picture.pixels[:, :, 0] if picture.grayscale else picture.pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.icc:
        image.info["icc_profile"] = picture.icc
    return image


def picture_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a picture's file name, in lower case. Raises DkicError where `write_picture` writes no such format."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITE_FORMATS:
        raise DkicError(f"{path}: the name must end in one of {', '.join(_WRITE_FORMATS)}")
    return suffix


def write_picture(picture: Picture, path: str | os.PathLike[str], force: bool = False) -> None:
    """Writes `picture` to `path` in the format of its suffix, whole or not at all; see `write_atomically`.

    A grayscale picture is written with one channel; WebP always has three, so a profile for gray is left out.
    """
    suffix = picture_suffix(path)
    if suffix == ".pgm" and not picture.grayscale:
        raise DkicError(f"{path}: a .pgm holds grayscale only, and the picture has colours; take .ppm")
    image_format, options = _WRITE_FORMATS[suffix]
    icc = picture.icc
    if icc and image_format == "WEBP" and picture.grayscale and icc[16:20] == b"GRAY":
        icc = None

    def save(file: IO[bytes]) -> None:
        try:
            to_pil(picture).save(file, image_format, icc_profile=icc, **options)
        except (ValueError, OverflowError, struct.error) as error:
            raise DkicError(f"{path}: can't be written as {image_format} ({reason(error)})") from error

    write_atomically(path, save, force)


def _from_file(file: io.BufferedReader, name: str) -> Picture:
    if not file.peek(1):
        raise DkicError(f"{name}: the file is empty, so it is not a picture")
    return _from_pil(Image.open(file, formats=_READ_FORMATS), name)


def _from_pil(image: Image.Image, name: str) -> Picture:
    check_size(image.width, image.height, f"{name}: ")
    refusal = _refusal(image)
    if refusal:
        raise DkicError(f"{name}: {refusal}")
    image.load()
    icc = image.info.get("icc_profile")
    icc = icc if icc and isinstance(icc, bytes) else None
    image = _upright(image)
    mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return _gray_picture(pixels, icc) if mode == "L" else Picture(pixels, icc=icc)


def _refusal(image: Image.Image) -> str | None:
    """Why dkic doesn't code `image` and what to do, or None."""
    # An MPO is a JPEG with a preview or depth map behind it; its first frame is the photograph.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        return "it has several frames or pages; give one, for example `magick 'IN[0]' OUT`"
    if image.mode in ("I", "F") or image.mode.startswith("I;") or _bits(image) > 8:
        return "it has more than 8 bits a channel; convert it first, for example `magick IN -depth 8 OUT.png`"
    if image.has_transparency_data:
        return "it has transparency; flatten it first, for example `magick IN -background white -flatten OUT`"
    if image.mode not in ("1", "L", "P", "RGB", "YCbCr"):
        return f"it is {image.mode}; convert it to RGB first, for example `magick IN -colorspace sRGB OUT`"
    return None


def _bits(image: Image.Image) -> int:
    """Bits a channel in the file, which Pillow may show as an 8-bit mode; 8 where there is no file to ask."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,)))
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else None
    if image.format == "PNG" and ";16" in str(args):
        return 16
    if image.format == "PPM" and isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255:
        return 16
    return 8


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # Damaged metadata beside sound pixels: viewers ignore it, and so do we.
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


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


def _gray_picture(gray: np.ndarray, icc: bytes | None = None) -> Picture:
    return Picture(np.repeat(gray[:, :, None], 3, axis=2), grayscale=True, icc=icc)


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
    except Image.UnidentifiedImageError as error:
        formats = "PNG, JPEG, WebP, TIFF, PPM, PGM or BMP"
        raise DkicError(f"{name}: this is not a {formats} picture, or its beginning is damaged") from error
    except Exception as error:
        # A damaged file makes Pillow's readers raise anything: SyntaxError, struct.error, MemoryError ...
        raise DkicError(f"{name}: can't be read as a picture ({reason(error)})") from error
    finally:
        with _pillow_lock:
            _pillow_users -= 1
            if _pillow_users == 0:
                _pillow_restore.close()
