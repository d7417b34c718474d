"""Random crops of photographs in folders, determined by (seed, step, index)."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dkic.coding.image_formats import images_below
from dkic.coding.image_reading import image_size, read_image
from dkic.errors import DkicError

# Folders of ImageNet's training images relative to its root: ILSVRC2012_img_train.tar, torchvision's layout, and the archive of
# the localization challenge. Validation and test images next to them are not used.
IMAGENET_TRAIN = (".", "train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")
_SYNSET = re.compile(r"n\d{8}")
_READ_AHEAD = 1024  # image headers, read by several threads


class Crops(NamedTuple):
    """Crops of a step.

    Attributes:
        pixels: uint8 `[n, crop, crop, 3]`.
        files: path of the photograph of each crop.
        unreadable: photographs that could not be read and were skipped since the previous call, by path, with the error message.
    """

    pixels: Tensor
    files: list[str]
    unreadable: dict[str, str]


class PhotoFolder:
    """Random crops of the photographs in one or more folders.

    The probability of a photograph is proportional to its area. Areas above AREA_CAP count as AREA_CAP, so that a few very large
    photographs do not dominate the batches.

    Args:
        folders: folders to search recursively for images (`dkic.coding.image_formats`); symbolic links are followed. From a
            folder in one of ImageNet's layouts (IMAGENET_TRAIN), only the training images are used.
        crop: side of the square crops, in pixels; smaller photographs are skipped.
        cache_bytes: memory limit of the cache of decoded images, in bytes.
        imagenet_photos: number of ImageNet's training images to use, a fixed random subset; None: all.
        least_scale: photographs are scaled by a random factor in [least_scale, 1], log-uniform, before cropping. The factor is
            limited so that the scaled photograph is not smaller than a crop.

    Attributes:
        paths: the photographs that are large enough.
        too_small: number of photographs that are smaller than a crop.
        others: number of files that are not images.
        broken: images whose header can't be read. Other errors (truncated data, transparency) are found when a photograph is
            first decoded; see `Crops.unreadable`.
        fingerprint: hash of the names and areas of the photographs.

    Raises:
        DkicError: a folder does not exist, or no photograph is large enough.
    """

    AREA_CAP = 1_000_000

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        crop: int,
        cache_bytes: int = 2 * 2**30,
        imagenet_photos: int | None = None,
        least_scale: float = 1.0,
    ) -> None:
        self.crop, self.least_scale = crop, least_scale
        self.paths: list[Path] = []
        self.too_small, self.others, self.broken = 0, 0, list[Path]()
        areas: list[int] = []
        names: list[str] = []
        self._folders = [Path(folder) for folder in ([folders] if isinstance(folders, (str, Path)) else folders)]
        for folder in self._folders:
            for path, area in islice(self._found(folder), imagenet_photos if _imagenet(folder) else None):
                self.paths.append(path)
                areas.append(min(area, self.AREA_CAP))
                names.append(f"{path.relative_to(folder)} {areas[-1]}")
        if not self.paths:
            skipped = f"skipped: {self.too_small} too small, {len(self.broken)} unreadable"
            raise DkicError(f"{self._where}: no photograph of at least {crop}x{crop} pixels in it ({skipped})")
        self.fingerprint = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
        self._ends = np.cumsum(areas, dtype=np.int64)
        self._unreadable = set[Path]()
        self._new_unreadable: dict[str, str] = {}
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self.paths) - len(self._unreadable)

    def crops(self, seed: int, step: int, which: range) -> Crops:
        """Crops of a step. Each crop depends only on the seed, the step and its own index.

        Args:
            seed: seed of the run.
            step: optimizer step.
            which: indexes of the crops in the step's global batch.

        Raises:
            DkicError: none of the photographs can be read.
        """
        pixels, files = np.empty((len(which), self.crop, self.crop, 3), dtype=np.uint8), []
        for i, number in enumerate(which):
            rng = np.random.default_rng((seed, step, number))
            path, photograph = self._draw(rng)
            side = self.crop
            if self.least_scale < 1:
                side = min(round(side / self.least_scale ** rng.random()), *photograph.shape[:2])
            top, left = (rng.integers(n - side + 1) for n in photograph.shape[:2])
            crop = photograph[top : top + side, left : left + side]
            if side > self.crop:
                crop = np.asarray(Image.fromarray(crop).resize((self.crop, self.crop), Image.Resampling.LANCZOS))
            if rng.integers(2):
                crop = crop[:, ::-1]
            if rng.integers(2):
                crop = crop.transpose(1, 0, 2)
            pixels[i] = crop
            files.append(str(path))
        unreadable, self._new_unreadable = self._new_unreadable, {}
        return Crops(torch.from_numpy(pixels), files, unreadable)

    def divide_cache(self, n: int) -> None:
        """Divides the memory limit of the cache by the number n of worker processes, which have a copy each."""
        self._cache_left //= n

    def _found(self, folder: Path) -> Iterator[tuple[Path, int]]:
        """Yields (path, area in pixels) of the photographs in a folder that are large enough; counts the others."""
        imagenet = _imagenet(folder)
        paths, others = images_below(imagenet or folder)
        self.others += others.total()
        if imagenet:
            np.random.default_rng(0).shuffle(paths)  # type: ignore[arg-type]  # sorted by class before
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(paths), _READ_AHEAD):
                some = paths[start : start + _READ_AHEAD]
                for path, size in zip(some, threads.map(_size, some), strict=True):
                    if size is None:
                        self.broken.append(path)
                    elif min(size) < self.crop:
                        self.too_small += 1
                    else:
                        yield path, size[0] * size[1]

    @property
    def _where(self) -> str:
        return ", ".join(map(str, self._folders))

    def _draw(self, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
        """Draws a photograph: its path, and its pixels `[H, W, 3]`, uint8. Draws again if the file can't be read."""
        reason: DkicError | None = None
        while len(self):
            path = self.paths[np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right")]
            if path not in self._unreadable:
                try:
                    return path, self._pixels(path)
                except DkicError as error:
                    reason = error
                    self._unreadable.add(path)
                    self._new_unreadable[str(path)] = str(error)
        raise DkicError(f"{self._where}: none of its photographs can be read ({reason})")

    def _pixels(self, path: Path) -> np.ndarray:
        if path in self._cache:
            self._cache.move_to_end(path)
            return self._cache[path]
        pixels = read_image(path).pixels
        if min(pixels.shape[:2]) < self.crop:
            raise DkicError(f"{path}: has become smaller than {self.crop}x{self.crop} pixels since it was found; restore it")
        self._cache[path] = pixels
        self._cache_left -= pixels.nbytes
        while self._cache_left < 0 and len(self._cache) > 1:
            self._cache_left += self._cache.popitem(last=False)[1].nbytes
        return pixels


def _imagenet(folder: Path) -> Path | None:
    """The folder of ImageNet's training images if `folder` has one of its layouts, else None."""
    for below in IMAGENET_TRAIN:
        train = folder / below
        if train.is_dir() and any(_SYNSET.fullmatch(child.name) and child.is_dir() for child in train.iterdir()):
            return train
    return None


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header; None if the header can't be read."""
    try:
        return image_size(path)
    except DkicError:
        return None
