"""Figures 2 and 3 of the paper: crops of the original and of each codec at a target rate, with (BPP / LPIPS)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageOps

from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.measured_files import MeasuredFile
from dkic.evaluation.table import Cell, number

COLORS = ("#ffd400", "#20c020")  # yellow and green, as in the paper
_TILE, _GAP, _CAPTION, _COLUMNS = 256, 12, 46, 6  # pixels; the whole image takes half the columns of the first row


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def parse_crops(texts: Sequence[str], images: Mapping[str, Path]) -> dict[str, list[Crop]]:
    """Crops by image, from texts IMAGE:LEFT,TOP,WIDTH,HEIGHT; at most two an image.

    Raises:
        DkicError: a malformed text, an unknown image, or a crop that exceeds the image.
    """
    found: dict[str, list[Crop]] = {}
    for text in texts:
        image, _, numbers = text.rpartition(":")
        try:
            crop = Crop(*map(int, numbers.split(",")))
        except (TypeError, ValueError):
            raise DkicError(f"--crop {text}: must be IMAGE:LEFT,TOP,WIDTH,HEIGHT, in pixels") from None
        if image not in images:
            raise DkicError(f"--crop {text}: there is no image {image}; use {', '.join(images)}")
        height, width = read_image(images[image]).pixels.shape[:2]
        inside = 0 <= crop.left <= width - crop.width and 0 <= crop.top <= height - crop.height
        if not inside or crop.width < 8 or crop.height < 8:
            raise DkicError(f"--crop {text}: must be at least 8x8 and inside the image of {width}x{height}")
        if len(found.setdefault(image, [])) == len(COLORS):
            raise DkicError(f"--crop {text}: an image must have at most two crops")
        found[image].append(crop)
    return found


def find_crops(original: np.ndarray, decoded: Sequence[np.ndarray]) -> list[Crop]:
    """Two squares, a quarter of the shorter side wide and well apart, where the mean squared error over the codecs is largest."""
    height, width = original.shape[:2]
    side = max(1, min(height, width) // 4)
    error = np.mean([np.square(original.astype(np.float32) - other).mean(2) for other in decoded], axis=0)
    step = max(1, side // 4)
    sums = F.avg_pool2d(torch.from_numpy(error)[None, None], side, step)[0, 0].numpy()
    rows, columns = np.unravel_index(np.argsort(sums, axis=None)[::-1], sums.shape)
    places = [Crop(column * step, row * step, side, side) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)]
    first = places[0]
    # At a distance from the first, to show another part of the image.
    others = [p for p in places if max(abs(p.left - first.left), abs(p.top - first.top)) >= 1.5 * side]
    return [first, *others[:1]]


def most_different_images(cells: Sequence[Cell], count: int = 2) -> list[str]:
    """Names of the images whose LPIPS differs most between the codecs at a target."""
    by_image: dict[str, list[float]] = {}
    for cell in cells:
        for row in cell.chosen:
            by_image.setdefault(row.image, []).append(row.scores["lpips"])
    return sorted(by_image, key=lambda image: np.ptp(by_image[image]), reverse=True)[:count]


def figure(original: np.ndarray, crops: Sequence[Crop], decoded: Sequence[tuple[MeasuredFile, np.ndarray]]) -> Image.Image:
    """The whole original with the crops' rectangles; then the enlarged crops of the original and of each codec.

    Args:
        original: uint8 `[H, W, 3]`.
        decoded: the measurement of this image and its pixels, for each codec.
    """
    columns = [("original", "(BPP / LPIPS)", original)]
    columns += [(row.codec, f"({row.bpp:.3f} / {number(row.scores['lpips'], 3) or 'none'})", pixels) for row, pixels in decoded]
    tiles = [_enlarged(crop.of(original)).size for crop in crops]
    tile_height = max(height for _, height in tiles)
    line_height = len(crops) * (tile_height + _GAP) + _CAPTION
    first = _COLUMNS // 2
    lines = 1 + max(0, -(-(len(columns) - first) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) + _GAP, lines * line_height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    box = (first * (_TILE + _GAP) - _GAP, line_height - _CAPTION - _GAP)
    sheet.paste(_with_rectangles(original, crops, box), (_GAP, _GAP))
    for i, (name, caption, pixels) in enumerate(columns):
        line, column = divmod(i + first, _COLUMNS)
        left, top = _GAP + column * (_TILE + _GAP), _GAP + line * line_height
        for color, crop in zip(COLORS, crops, strict=False):
            tile = _enlarged(crop.of(pixels))
            draw.rectangle((left - 3, top - 3, left + tile.width + 2, top + tile.height + 2), fill=color)
            sheet.paste(tile, (left, top))
            top += tile_height + _GAP
        draw.text((left + _TILE // 2, top), f"{name}\n{caption}", fill="black", anchor="ma", align="center", font_size=17)
    return sheet


def _enlarged(pixels: np.ndarray) -> Image.Image:
    """Enlarged by the largest integer factor that fits a tile, or reduced to fit."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    times = _TILE // max(image.size)
    if times >= 1:
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return ImageOps.contain(image, (_TILE, _TILE), Image.Resampling.LANCZOS)


def _with_rectangles(original: np.ndarray, crops: Sequence[Crop], box: tuple[int, int]) -> Image.Image:
    whole = ImageOps.contain(Image.fromarray(original), box, Image.Resampling.LANCZOS)
    scale, draw = whole.width / original.shape[1], ImageDraw.Draw(whole)
    for color, crop in zip(COLORS, crops, strict=False):
        left, top = crop.left * scale, crop.top * scale
        draw.rectangle((left, top, left + crop.width * scale - 1, top + crop.height * scale - 1), outline=color, width=3)
    return whole
