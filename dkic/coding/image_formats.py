"""Image file formats that dkic reads and writes, with their suffixes, and the images in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from PIL import features

from dkic.errors import DkicError
from dkic.output_file import reason


@dataclass(frozen=True)
class ImageFormat:
    """An image file format. label: display name. pillow: Pillow's name. suffixes: in lower case.

    options: Pillow's options for writing. color_options: for several channels. holds_profile: whether Pillow writes an ICC
    profile into it.
    """

    label: str
    pillow: str
    suffixes: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    color_options: dict[str, Any] = field(default_factory=dict)
    holds_profile: bool = True

    def unavailable_reason(self) -> str | None:
        """Why the format can be neither read nor written here, and what to do; None if it can."""
        if self.pillow == "AVIF" and not ("avif" in features.modules and features.check("avif")):
            return "this Pillow has no AVIF; run `python3 -m pip install --upgrade 'pillow>=11.3'`"
        if self.pillow == "JXL" and find_spec("pillow_jxl") is None:
            return "Pillow alone has no JPEG XL; run `python3 -m pip install pillow-jxl-plugin`"
        return None

    def register(self) -> None:
        """Registers the format with Pillow."""
        if self.pillow == "JXL":
            import pillow_jxl  # noqa: F401  (registers itself)


PNG = ImageFormat("PNG", "PNG", (".png",))
JPEG = ImageFormat("JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), {"quality": 95}, {"subsampling": 0})
WEBP = ImageFormat("WebP", "WEBP", (".webp",), {"lossless": True})
TIFF = ImageFormat("TIFF", "TIFF", (".tif", ".tiff"), {"compression": "tiff_deflate"})
PPM = ImageFormat("PPM", "PPM", (".ppm", ".pgm", ".pbm", ".pnm"), holds_profile=False)
BMP = ImageFormat("BMP", "BMP", (".bmp",), holds_profile=False)
AVIF = ImageFormat("AVIF", "AVIF", (".avif",), {"quality": 100}, {"subsampling": "4:4:4"})
JXL = ImageFormat("JPEG XL", "JXL", (".jxl",), {"lossless": True}, holds_profile=False)
FORMATS = (PNG, JPEG, WEBP, TIFF, PPM, BMP, AVIF, JXL)
FORMAT_BY_SUFFIX = {suffix: known for known in FORMATS for suffix in known.suffixes}


def format_of(head: bytes) -> ImageFormat | None:
    """The format in FORMATS of a file that begins with these bytes (32 suffice), or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TIFF
    if head[:1] == b"P" and head[1:2] in b"123456fF" and len(head) > 1:
        return PPM
    if head.startswith(b"BM"):
        return BMP
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return AVIF
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return JXL
    return None


def format_names() -> str:
    """ "PNG, JPEG, ... or AVIF": the formats that are available here."""
    names = [known.label for known in FORMATS if known.unavailable_reason() is None]
    return f"{', '.join(names[:-1])} or {names[-1]}"


class FolderImages(NamedTuple):
    """images: paths, in order. others: the number of other files by suffix ("" without a suffix), .dkic files not counted."""

    images: list[Path]
    others: Counter[str]

    def skipped(self) -> str | None:
        """A sentence on the number of skipped files; None if there are none."""
        if not self.others:
            return None
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(self.others.items()))
        files = f"{self.others.total()} file{'s'[: self.others.total() > 1]}"
        return f"skipped {files} in formats that dkic does not read here ({kinds})"


def images_in(folder: str | os.PathLike[str]) -> FolderImages:
    """The images in a folder, identified by suffix, sorted by name; without hidden files and subfolders.

    Raises DkicError if there is no image, or no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DkicError(f"{folder}: there is no such folder; give a folder of images")
    try:
        files = [path for path in sorted(folder.iterdir()) if path.name[0] != "." and not path.is_dir()]
    except OSError as error:
        raise DkicError(f"{folder}: can't be read ({reason(error)})") from None
    found = _sorted_out(files)
    if not found.images:
        raise DkicError(f"{folder}: there are no images ({', '.join(_readable_suffixes())}) in it; give another folder")
    return found


def images_below(folder: str | os.PathLike[str]) -> FolderImages:
    """The images in a folder and all its subfolders, also those that are symbolic links; each folder is visited once.

    Raises DkicError if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DkicError(f"{folder}: there is no such folder; give a folder of images")
    return _sorted_out(sorted(_files_below(folder)))


def _files_below(folder: Path) -> Iterator[Path]:
    visited, roots = set[tuple[int, int]](), [folder]
    while roots:  # links last, so that files go by the names of the folders that they are in
        links: list[Path] = []
        for root in roots:
            for parent, subfolders, names in os.walk(root):
                status = os.stat(parent)
                if (status.st_dev, status.st_ino) in visited:
                    subfolders.clear()
                    continue
                visited.add((status.st_dev, status.st_ino))
                links += (Path(parent, name) for name in subfolders if os.path.islink(os.path.join(parent, name)))
                yield from (Path(parent, name) for name in names if name[0] != ".")
        roots = sorted(links)


def _sorted_out(files: list[Path]) -> FolderImages:
    suffixes = _readable_suffixes()
    images = [path for path in files if path.suffix.lower() in suffixes]
    others = (path.suffix.lower() for path in files if path.suffix.lower() not in (*suffixes, ".dkic"))
    return FolderImages(images, Counter(others))


def _readable_suffixes() -> tuple[str, ...]:
    return tuple(suffix for known in FORMATS if known.unavailable_reason() is None for suffix in known.suffixes)
