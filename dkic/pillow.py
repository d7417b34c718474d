"""Pillow plugin for `.dkic` files: importing this module registers the format.

    import dkic.pillow
    from PIL import Image

    image.save("photo.dkic", quality=40)
    image = Image.open("photo.dkic")
    dkic.pillow.save(image, "photo.dkic", quality=20)  # replaces the file only after encoding

`Image.open` reads the header; pixels are decoded on first access.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageFile, UnidentifiedImageError

from dkic.coding.container import MAGIC, read_head, unpack
from dkic.coding.image_color import fitting_profile
from dkic.errors import DkicError, FormatError
from dkic.output_file import write_atomically

if TYPE_CHECKING:
    from dkic.coding.codec import Codec

__all__ = ["DkicImageFile", "DkicImageError", "UnidentifiedDkicError", "save", "set_codec"]

FORMAT = "DKIC"
OPTIONS = ("quality", "target_bpp", "icc_profile", "background")
_lock = threading.Lock()
_codec: Codec | None = None


class DkicImageError(OSError, DkicError):
    """A `.dkic` file can't be decoded or written. An OSError, as raised by Pillow's own plugins."""


class UnidentifiedDkicError(UnidentifiedImageError, FormatError):
    """The header of a `.dkic` file is damaged, or from a version that this dkic does not read."""


def set_codec(codec: Codec | None) -> None:
    """Sets the codec for decoding and encoding. None: `dkic.load()`, loaded on first use."""
    global _codec
    with _lock:
        _codec = codec


def _current_codec() -> Codec:
    global _codec
    with _lock:
        if _codec is None:
            from dkic.coding.codec import load  # imports torch

            _codec = load()
        return _codec


class DkicImageFile(ImageFile.ImageFile):
    """An opened `.dkic` file: RGB or L, its ICC profile in `info["icc_profile"]`, the encoder's quality in `info["quality"]`."""

    format = FORMAT
    format_description = "dkic learned image compression"

    def _open(self) -> None:
        assert self.fp is not None
        start = self.fp.tell()
        try:
            header, profile = read_head(self.fp)
        except FormatError as error:
            raise UnidentifiedDkicError(_named(self.filename, error)) from error
        self._size = header.width, header.height
        self._mode = "L" if header.grayscale else "RGB"
        self.info["quality"] = header.quality
        icc, notes = fitting_profile(profile, header.grayscale) if profile else (None, [])
        if icc:
            self.info["icc_profile"] = icc
        _warn(self.filename, notes)
        self.tile = [("dkic", (0, 0, *self.size), start, (self.filename,))]  # type: ignore[list-item]

    def verify(self) -> None:
        """Raises DkicImageError if a checksum is wrong; the file is then closed, as with other formats."""
        assert self.fp is not None
        try:
            self.fp.seek(self.tile[0][2])
            unpack(self.fp.read())
        except FormatError as error:
            raise DkicImageError(_named(self.filename, error)) from error
        finally:
            super().verify()


class _Decoder(ImageFile.PyDecoder):
    _pulls_fd = True

    def decode(self, buffer: object) -> tuple[int, int]:
        (filename,) = self.args
        assert self.fd is not None
        try:
            file = unpack(self.fd.read(), salvage=ImageFile.LOAD_TRUNCATED_IMAGES)
            _warn(filename, file.lost)
            pixels = _current_codec().decompress(file, "numpy")
        except DkicError as error:
            raise DkicImageError(_named(filename, error)) from error
        self.set_as_raw((pixels[:, :, 0] if self.mode == "L" else pixels).tobytes())
        return -1, 0


def save(image: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Writes an image to a `.dkic` file as `image.save` does, but atomically: after an error, an existing file is unchanged.

    `Image.save` truncates an existing file before it calls the encoder of any format.

    Args:
        image: a PIL image.
        path: the file.
        options: quality, target_bpp, icc_profile and background, as for `image.save`; see docs/pillow.md.

    Raises:
        TypeError: there is no such option, or image is not a PIL image.
        DkicImageError: the image can't be encoded, or the file can't be written.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"save/image: must be a PIL image, and is a {type(image).__name__}; convert it with Image.fromarray")
    if unknown := [name for name in options if name not in OPTIONS]:
        raise TypeError(f"save/{unknown[0]}: there is no such option; give one of {', '.join(OPTIONS)}")
    data = _encoded(image, os.fspath(path), options)
    try:
        write_atomically(path, data, force=True)
    except DkicError as error:
        raise DkicImageError(str(error)) from error


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    fp.write(_encoded(image, filename, image.encoderinfo))


def _encoded(image: Image.Image, filename: str | bytes, options: dict[str, Any]) -> bytes:
    from dkic.coding.image_conversion import image_from

    try:
        profile = options.get("icc_profile")
        if not isinstance(profile, bytes | None):
            raise DkicError(f"icc_profile: must be bytes or None, and is a {type(profile).__name__}; give the profile's bytes")
        converted = image_from(image, options.get("background"))
        _warn("the image", converted.notes)
        if "icc_profile" in options:
            converted = replace(converted, icc=profile or None)
        return _current_codec().compress(converted, quality=options.get("quality"), target_bpp=options.get("target_bpp"))
    except DkicError as error:
        raise DkicImageError(_named(filename, error)) from error


def _named(filename: str | bytes, sentence: object) -> str:
    name = filename.decode(errors="backslashreplace") if isinstance(filename, bytes) else filename
    return f"{name}: {sentence}" if name else str(sentence)


def _warn(filename: str | bytes, notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(_named(filename, note), stacklevel=4)


Image.register_open(FORMAT, DkicImageFile, lambda prefix: prefix.startswith(MAGIC))
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".dkic")
Image.register_mime(FORMAT, "image/x-dkic")
Image.register_decoder("dkic", _Decoder)
