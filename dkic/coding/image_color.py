"""Color descriptions of image files as ICC profiles. A description that can't be converted is reported."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import IO, Any

from PIL import Image

from dkic.coding.cicp import HDR, Cicp
from dkic.coding.color_profile import (
    ADOBE_RGB_CURVE,
    ADOBE_RGB_PRIMARIES,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    WHITE_D65,
    Curve,
    Primaries,
    color_space,
    is_srgb,
    make_profile,
)

_EXIF_IFD, _INTEROPERABILITY_IFD = 0x8769, 0xA005
_COLOR_SPACE, _INTEROPERABILITY_INDEX = 0xA001, 0x0001
_TIFF_WHITE, _TIFF_PRIMARIES = 318, 319
_BMP_FILE_HEADER, _BMP_V5_HEADER = 14, 124
_SRGB_GAMMA = 45455  # the gAMA chunk that the PNG specification recommends beside sRGB; libpng takes it for sRGB too


def described_profile(image: Image.Image, grayscale: bool, cicp: Cicp | None) -> tuple[bytes | None, list[str]]:
    """The ICC profile of an image's colors, None for sRGB; and a sentence for each description that was dropped.

    In order of precedence: a PNG's cICP chunk, an ICC profile, an AVIF's color description, a PNG's sRGB chunk, its gAMA and cHRM
    chunks (PNG, Third Edition, 4.3 and 13.14), a TIFF's WhitePoint and PrimaryChromaticities (with sRGB's curve), EXIF's mark of
    Adobe RGB (DCF 2.0 4.8). What is not a profile is made one. A BMP's calibrated endpoints, which no viewer reads, are not read.

    Args:
        cicp: of the file, since Pillow does not show it.

    Raises:
        ValueError: the colors are such that no profile for 8 bits is faithful to them (PQ, HLG); the message says why.
    """
    icc = image.info.get("icc_profile")
    icc = icc if isinstance(icc, bytes) else None
    if cicp is not None and cicp.is_specified and (image.format == "PNG" or not icc):
        return cicp.profile(grayscale), []
    if icc:
        _refuse_hdr(icc)
        return fitting_profile(icc, grayscale)
    if "srgb" in image.info:
        return None, []
    if "gamma" in image.info or "chromaticity" in image.info:
        return _profile_of_gamma(image.info.get("gamma"), image.info.get("chromaticity"), grayscale)
    tags = tiff_tags(image)
    if _TIFF_PRIMARIES in tags:
        white, primaries = tags.get(_TIFF_WHITE, WHITE_D65), tags[_TIFF_PRIMARIES]
        if len(white) != 2 or len(primaries) != 6:
            return None, ["its chromaticities are damaged and were dropped"]
        return _profile_of_gamma(None, tuple(map(float, (*white, *primaries))), grayscale)
    if not grayscale and _is_adobe_rgb(image):
        return make_profile(ADOBE_RGB_CURVE, ADOBE_RGB_PRIMARIES), []
    return (None if cicp is None else cicp.profile(grayscale)), []


def fitting_profile(icc: bytes, grayscale: bool) -> tuple[bytes | None, list[str]]:
    """The same profile if it fits such pixels; otherwise None, and a note unless it is sRGB for gray pixels."""
    space, expected = color_space(icc), "GRAY" if grayscale else "RGB"
    if space == expected:
        return icc, []
    if space is None:
        return None, ["its ICC profile is damaged and was dropped"]
    if space == "RGB" and is_srgb(icc, grayscale=False):
        return None, []
    return None, [f"its ICC profile is for {space} pixels, and these are {expected}; it was dropped"]


def _refuse_hdr(icc: bytes) -> None:
    """Raises ValueError if a profile's cicp tag (ICC.1:2022 9.2.17) is PQ or HLG."""
    (count,) = struct.unpack_from(">I", icc, 128) if len(icc) >= 132 else (0,)
    for entry in range(132, min(132 + 12 * count, len(icc) - 11), 12):
        name, offset = struct.unpack_from(">4sI", icc, entry)
        if name == b"cicp" and offset + 12 <= len(icc) and icc[offset + 9] in HDR:
            raise ValueError(f"its colors are HDR ({HDR[icc[offset + 9]]})")


def bmp_profile(file: IO[bytes]) -> bytes | None:
    """The ICC profile embedded in a BMP file, which Pillow does not read; the file's position is unchanged.

    Source: BITMAPV5HEADER: bV5CSType, bV5ProfileData, bV5ProfileSize.
    """
    start = file.tell()
    head = file.read(_BMP_FILE_HEADER + _BMP_V5_HEADER)
    profile = None
    if len(head) == _BMP_FILE_HEADER + _BMP_V5_HEADER and head[14:18] == struct.pack("<I", _BMP_V5_HEADER):
        offset, size = struct.unpack_from("<II", head, _BMP_FILE_HEADER + 112)
        if head[_BMP_FILE_HEADER + 56 :][:4] == b"DEBM":  # "MBED" as a little-endian number
            file.seek(start + _BMP_FILE_HEADER + offset)
            profile = file.read(size)
    file.seek(start)
    return profile or None


def _profile_of_gamma(
    gamma: float | None, chromaticity: tuple[float, ...] | None, grayscale: bool
) -> tuple[bytes | None, list[str]]:
    """Of the values in a PNG's gAMA and cHRM chunks, or TIFF's like them (white, red, green, blue, as x and y each)."""
    primaries = SRGB_PRIMARIES
    if chromaticity is not None and not grayscale:
        white, red, green, blue = (chromaticity[i : i + 2] for i in range(0, 8, 2))
        primaries = Primaries(*((round(x, 4), round(y, 4)) for x, y in (red, green, blue, white)))
    curve = SRGB_CURVE
    if gamma is not None and not (round(gamma * 100_000) == _SRGB_GAMMA and primaries == SRGB_PRIMARIES):
        if not 0.1 <= gamma <= 10:
            return None, [f"its gAMA chunk says {gamma:g}, which is not a valid gamma, and was dropped"]
        curve = Curve(1 / gamma)
    if curve == SRGB_CURVE and primaries == SRGB_PRIMARIES:
        return None, []
    try:
        return make_profile(curve, None if grayscale else primaries), []
    except ValueError as error:
        return None, [f"its chromaticities were dropped: {error}"]


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Cameras write no profile with it: the color space is 65535 or 2, and the interoperability index R03."""
    try:
        exif = image.getexif()
        space = exif.get_ifd(_EXIF_IFD).get(_COLOR_SPACE)
        return space == 2 or (space == 0xFFFF and exif.get_ifd(_INTEROPERABILITY_IFD).get(_INTEROPERABILITY_INDEX) == "R03")
    except Exception:  # Pillow raises anything on damaged EXIF
        return False


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of an opened TIFF file; empty for other images."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
