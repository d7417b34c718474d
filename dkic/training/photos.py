"""Random crops of photographs in folders, reproducible from (seed, step) alone."""

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

# Where ImageNet's photographs for training are below its root: as ILSVRC2012_img_train.tar has them, as torchvision lays
# them out, and in the archive of its localization challenge. Those for validation and test beside them are left alone.
IMAGENET_TRAIN = (".", "train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")
_SYNSET = re.compile(r"n\d{8}")
_AT_A_TIME = 1024  # headers that are read ahead, by several threads


class Crops(NamedTuple):
    """Some of a step's crops.

    pixels: uint8 `[n, crop, crop, 3]`. files: which photograph each is of. unreadable: photographs that turned out to be so,
    and were passed over, since the last crops, with a sentence why.
    """

    pixels: Tensor
    files: list[str]
    unreadable: dict[str, str]


class PhotoFolder:
    """Crops of the photographs below a folder, or several.

    A photograph is drawn with a chance proportional to its area, but at most AREA_CAP's, so that a few huge ones don't fill
    every batch. Decoded images stay in memory up to `cache_bytes`.

    Args:
        folders: searched recursively, through symbolic links too, for images (`dkic.coding.image_formats`). That is Flicker2W's
            layout too; of a folder in one of ImageNet's layouts (IMAGENET_TRAIN) the photographs for training are taken.
        crop: side of the square crops, in pixels; smaller photographs are skipped.
        cache_bytes: memory for decoded images.
        imagenet_photos: how many of ImageNet's photographs are taken, any, but always the same; None: all.
        least_scale: every crop is of its photograph scaled by a random factor, its logarithm uniform, from this to 1, as far as
            the photograph is large enough.

    Attributes:
        too_small, others, broken: how many were smaller than a crop; how many files are no images; those whose head can't be
            read. That another can't be read (a truncated file, one with transparency) shows when it is first drawn: see `Crops`.
        fingerprint: the same for folders with the same photographs, by name and size.

    Raises:
        DkicError: no photograph that is large enough.
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
        self._to_tell: dict[str, str] = {}
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self.paths) - len(self._unreadable)

    def crops(self, seed: int, step: int, which: range) -> Crops:
        """These of a step's crops: each depends on seed, step and its own number alone, whoever makes the others."""
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
        unreadable, self._to_tell = self._to_tell, {}
        return Crops(torch.from_numpy(pixels), files, unreadable)

    def divide_cache(self, n: int) -> None:
        """Keep to an n-th of the memory, as one of n processes that have a copy of this."""
        self._cache_left //= n

    def _found(self, folder: Path) -> Iterator[tuple[Path, int]]:
        """The photographs below a folder that are large enough, and their areas; counts the others."""
        imagenet = _imagenet(folder)
        paths, others = images_below(imagenet or folder)
        self.others += others.total()
        if imagenet:
            np.random.default_rng(0).shuffle(paths)  # type: ignore[arg-type]  # by class otherwise
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(paths), _AT_A_TIME):
                some = paths[start : start + _AT_A_TIME]
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
        """A photograph; where one can't be read, another is drawn, which is as reproducible as the files are."""
        reason: DkicError | None = None
        while len(self):
            path = self.paths[np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right")]
            if path not in self._unreadable:
                try:
                    return path, self._pixels(path)
                except DkicError as error:
                    reason = error
                    self._unreadable.add(path)
                    self._to_tell[str(path)] = str(error)
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
    """The folder of ImageNet's photographs for training, where `folder` is in one of its layouts."""
    for below in IMAGENET_TRAIN:
        train = folder / below
        if train.is_dir() and any(_SYNSET.fullmatch(child.name) and child.is_dir() for child in train.iterdir()):
            return train
    return None


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's head has them; None where it is no image."""
    try:
        return image_size(path)
    except DkicError:
        return None
