"""JPEG, JPEG 2000, WebP, AVIF and JPEG XL by Pillow, each with its best settings for small files at practical speed."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features

from dkic.evaluation.codecs import Unavailable


@dataclass(frozen=True)
class ByPillow:
    """An `ImageCodec`; `options` maps a quality to Pillow's options."""

    name: str
    about: str
    suffix: str
    qualities: tuple[int, ...]
    format: str = field(repr=False)
    options: Callable[[int], dict[str, Any]] = field(repr=False)

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, self.format, **self.options(quality))
        return file.getvalue()

    def decode(self, data: bytes) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(data), formats=[self.format]).convert("RGB"))


def by_pillow(name: str) -> ByPillow:
    """The codec of that name: jpeg, jpeg2000, webp, avif or jxl. Raises Unavailable."""
    return {"jpeg": _jpeg, "jpeg2000": _jpeg2000, "webp": _webp, "avif": _avif, "jxl": _jxl}[name]()


def _jpeg() -> ByPillow:
    return ByPillow(
        "jpeg",
        f"JPEG: {_library('libjpeg_turbo', 'jpg')}, progressive, optimized Huffman tables, 4:2:0",
        ".jpg",
        (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 28, 38, 50, 65),
        "JPEG",
        lambda quality: {"quality": quality, "optimize": True, "progressive": True, "subsampling": "4:2:0"},
    )


def _jpeg2000() -> ByPillow:
    # The quality is the compression ratio relative to 24 bits per pixel; raw codestream.
    return ByPillow(
        "jpeg2000",
        f"JPEG 2000: {_library('jpg_2000')}, 9/7 wavelet, codestream",
        ".j2k",
        (480, 400, 320, 240, 200, 160, 130, 100, 80, 60, 48, 36),
        "JPEG2000",
        lambda ratio: {
            "quality_mode": "rates",
            "quality_layers": [ratio],
            "irreversible": True,
            "mct": 1,
            "no_jp2": True,
            "num_resolutions": 6,
        },
    )


def _webp() -> ByPillow:
    return ByPillow(
        "webp",
        f"WebP: {_library('webp')}, method 6",
        ".webp",
        (0, 1, 2, 4, 6, 9, 13, 18, 25, 35, 50, 65),
        "WEBP",
        lambda quality: {"quality": quality, "method": 6},
    )


def _avif() -> ByPillow:
    return ByPillow(
        "avif",
        f"AVIF: {_library('avif')}, aom, speed 4, 4:4:4",
        ".avif",
        (1, 4, 8, 12, 16, 20, 25, 30, 36, 43, 52),
        "AVIF",
        lambda quality: {
            "quality": quality,
            "subsampling": "4:4:4",
            "speed": 4,
            "codec": "aom",
            "max_threads": torch.get_num_threads(),
        },
    )


def _jxl() -> ByPillow:
    try:
        import pillow_jxl  # registers itself with Pillow
    except ImportError:
        raise Unavailable("needs the JPEG XL plugin of Pillow; pip install pillow-jxl-plugin") from None
    from importlib.metadata import version

    pillow_jxl.JpegXLImagePlugin.DECODE_THREADS = torch.get_num_threads()  # type: ignore[attr-defined]
    return ByPillow(
        "jxl",
        f"JPEG XL: pillow-jxl-plugin {version('pillow-jxl-plugin')}, effort 9",
        ".jxl",
        (0, 2, 4, 7, 10, 14, 18, 23, 30, 40, 52, 66),
        "JXL",
        lambda quality: {"quality": quality, "effort": 9, "num_threads": torch.get_num_threads()},
    )


def _library(feature: str, needed: str | None = None) -> str:
    """Version of Pillow and of its codec library. Raises Unavailable."""
    if not features.check(needed or feature):
        raise Unavailable(f"this Pillow ({PIL.__version__}) is built without {feature}; pip install -U pillow")
    name = feature.replace("jpg_2000", "OpenJPEG")
    return f"Pillow {PIL.__version__}, {name} {features.version(feature) or ''}".rstrip()
