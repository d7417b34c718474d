"""Random crops from a folder of photographs, reproducible from (seed, step) alone."""

import hashlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dkic.coding.image_io import read_picture
from dkic.errors import DkicError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".ppm", ".bmp"))


class PhotoFolder:
    """Crops of the photographs below a folder.

    A photograph is drawn with a chance proportional to its area, but at most AREA_CAP's, so that a few huge ones don't fill
    every batch. Decoded pictures stay in memory up to `cache_bytes`.

    Args:
        folder: searched recursively for .png, .jpg, .webp, .tiff, .ppm and the like.
        crop: side of the square crops, in pixels; smaller photographs are skipped and counted in `skipped`, as are those that
            can't be read, some of which (a truncated file, one with transparency) show only when they are first drawn.
        cache_bytes: memory for decoded pictures.

    Attributes: `fingerprint` is the same for folders with the same photographs, by name and size.

    Raises:
        DkicError: no photograph that is large enough.
    """

    AREA_CAP = 1_000_000

    def __init__(self, folder: str | Path, crop: int, cache_bytes: int = 2 * 2**30) -> None:
        self.crop = crop
        self.paths: list[Path] = []
        self.skipped: dict[str, int] = {"too small": 0, "unreadable": 0}
        areas = []
        folder = Path(folder)
        if not folder.is_dir():
            raise DkicError(f"{folder}: not a folder of photographs")
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except Exception:  # a damaged file makes Pillow's readers raise anything
                self.skipped["unreadable"] += 1
                continue
            if min(width, height) < crop:
                self.skipped["too small"] += 1
                continue
            self.paths.append(path)
            areas.append(min(width * height, self.AREA_CAP))
        if not self.paths:
            raise DkicError(f"{folder}: no photograph of at least {crop}x{crop} pixels in it (skipped: {self.skipped})")
        listing = "\n".join(f"{path.relative_to(folder)} {area}" for path, area in zip(self.paths, areas, strict=True))
        self.fingerprint = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
        self._chance = np.array(areas, dtype=np.float64) / sum(areas)
        self._folder, self._unreadable = folder, set[Path]()
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self.paths) - len(self._unreadable)

    def batch(self, size: int, seed: int, step: int) -> Tensor:
        """`[size, 3, crop, crop]` float32 in [0, 1], channels_last: the same for the same seed and step."""
        rng = np.random.default_rng((seed, step))
        out = np.empty((size, self.crop, self.crop, 3), dtype=np.uint8)
        for i in range(size):
            pixels = self._draw(rng)
            top, left = (rng.integers(side - self.crop + 1) for side in pixels.shape[:2])
            crop = pixels[top : top + self.crop, left : left + self.crop]
            if rng.integers(2):
                crop = crop[:, ::-1]
            if rng.integers(2):
                crop = crop.transpose(1, 0, 2)
            out[i] = crop
        return torch.from_numpy(out).permute(0, 3, 1, 2).float().div_(255)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """A photograph's pixels; where one can't be read, another is drawn, which is as reproducible as the files are."""
        reason: DkicError | None = None
        while len(self):
            path = self.paths[rng.choice(len(self.paths), p=self._chance)]
            if path not in self._unreadable:
                try:
                    return self._pixels(path)
                except DkicError as error:
                    reason = error
                    self._unreadable.add(path)
                    self.skipped["unreadable"] += 1
        raise DkicError(f"{self._folder}: none of its photographs can be read ({reason})")

    def _pixels(self, path: Path) -> np.ndarray:
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        pixels = read_picture(path).pixels
        self._cache[path] = pixels
        self._cache_left -= pixels.nbytes
        while self._cache_left < 0 and len(self._cache) > 1:
            self._cache_left += self._cache.popitem(last=False)[1].nbytes
        return pixels
