"""ICC profiles: which are sRGB, which fit an image's channels, and profiles made from primaries and a transfer curve.

An image without a profile is sRGB. A profile equal to sRGB is not stored in a `.dkic` file: its 0.5 to 3 KB can
exceed the bytes of the image.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, features

XY = tuple[float, float]  # chromaticity

WHITE_D65: XY = (0.3127, 0.3290)
_D50_XYZ = np.array([0.9642, 1.0, 0.8249])  # the profile connection space's white point, ICC.1:2022 7.2.16
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Primaries:
    """Chromaticities (x, y) of red, green, blue and white."""

    red: XY
    green: XY
    blue: XY
    white: XY = WHITE_D65


@dataclass(frozen=True)
class Curve:
    """From a pixel value in [0, 1] to linear light: (a v + b)^gamma for v >= d, else c v (ICC.1:2022 10.18, type 3)."""

    gamma: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE_RGB_PRIMARIES = Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
ADOBE_RGB_CURVE = Curve(563 / 256)


def is_srgb(profile: bytes, grayscale: bool) -> bool:
    """Whether the profile maps every 8-bit color to the sRGB color of the same numbers, to within 1.

    Tested with Little CMS on 17 values of each channel, in the relative and the perceptual intent. False if Pillow is built
    without Little CMS or can't read the profile.
    """
    return _is_srgb(bytes(profile), grayscale)


def color_space(profile: bytes) -> str | None:
    """Color space in a profile's header ("RGB", "GRAY", "CMYK"); None if it is not a profile, or cut off."""
    if len(profile) < 128 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile[16:20].decode("latin-1").strip()


def make_profile(curve: Curve, primaries: Primaries | None) -> bytes:
    """An ICC profile (version 4, matrix and curve, 420 to 530 bytes); without primaries it is for grayscale.

    Raises ValueError if the primaries span no color space.
    """
    curve_tag = _curve_tag(curve)
    tags = {b"desc": _text_tag("dkic"), b"cprt": _text_tag("CC0"), b"wtpt": _xyz_tag(_D50_XYZ)}
    if primaries is None:
        tags[b"kTRC"] = curve_tag
    else:
        colorants, adaptation = _adapted_colorants(primaries)
        tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(adaptation.ravel())
        tags |= {name: _xyz_tag(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants.T, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve_tag)
    return _profile(b"GRAY" if primaries is None else b"RGB ", tags)


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes, grayscale: bool) -> bool:
    if color_space(profile) != ("GRAY" if grayscale else "RGB") or not features.check("littlecms2"):
        return False
    from PIL import ImageCms

    levels = np.rint(np.linspace(0, 255, 17)).astype(np.uint8)
    if grayscale:
        colors = np.arange(256, dtype=np.uint8)[None]
        expected = np.repeat(colors[..., None], 3, axis=2)
    else:
        expected = colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    try:
        own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        for intent in (ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Intent.PERCEPTUAL):
            transform = ImageCms.buildTransform(own, srgb, "L" if grayscale else "RGB", "RGB", intent)
            converted = np.asarray(ImageCms.applyTransform(Image.fromarray(colors), transform))
            if np.abs(converted.astype(int) - expected).max() > 1:
                return False
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return True


def _adapted_colorants(primaries: Primaries) -> tuple[np.ndarray, np.ndarray]:
    """`[3, 3]` XYZ of red, green and blue in its columns, adapted to D50 (Bradford), and that adaptation."""
    points = (primaries.red, primaries.green, primaries.blue, primaries.white)
    if any(not (0 < y <= 1 and abs(x) <= 1) for x, y in points):
        raise ValueError("a chromaticity is out of range")
    red, green, blue, white = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in points)
    directions = np.stack([red, green, blue], axis=1)
    if abs(np.linalg.det(directions)) < 1e-6:
        raise ValueError("the primaries lie on a line")
    colorants = directions * np.linalg.solve(directions, white)
    gains = (_BRADFORD @ _D50_XYZ) / (_BRADFORD @ white)
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD
    return adaptation @ colorants, adaptation


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, data, offset_of = b"", b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        if content not in offset_of:  # equal tags share their bytes
            offset_of[content] = start + len(data)
            data += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, offset_of[content], len(content))
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQI12s4s44s",
        start + len(data),
        b"",
        0x04400000,
        b"mntr",
        space,
        b"XYZ ",
        struct.pack(">6H", 2000, 1, 1, 0, 0, 0),
        b"acsp",
        b"",
        0,
        0,
        0,
        0,
        0,
        _fixed(_D50_XYZ),
        b"",
        b"",
    )
    return header + struct.pack(">I", len(tags)) + table + data


def _fixed(values: np.ndarray) -> bytes:
    """s15Fixed16 numbers."""
    return np.rint(np.asarray(values) * 65536).astype(">i4").tobytes()


def _xyz_tag(xyz: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(xyz)


def _text_tag(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _curve_tag(curve: Curve) -> bytes:
    if curve == Curve(curve.gamma):
        return b"para\0\0\0\0\0\0\0\0" + _fixed(np.array([curve.gamma]))
    return b"para\0\0\0\0\0\3\0\0" + _fixed(np.array([curve.gamma, curve.a, curve.b, curve.c, curve.d]))
