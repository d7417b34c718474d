"""Images brought to a rate together: of each the operating point that makes for the least distortion in all, nearly.

A survey measures each image at every quality, and dkic.allocation chooses; then the operating points near the chosen ones are
measured as well, and the choice made anew, until all of them are. What earlier runs measured elsewhere counts only where the
search comes by, so that the same command makes the same files. The chosen are coded again. Where a file then has another size
than was measured (in an earlier run with other threads or on another machine, whose transforms round otherwise), its own size
counts, and the choice is made anew: the rate is that of the files as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from dkic.allocation import Allocation, allocate
from dkic.allocation.problem import UNITS, Unreachable
from dkic.coding.codec import Codec, stored_profile
from dkic.coding.container import icc_section_bytes, unpack
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import FAULTS, DkicError, naming, sentence
from dkic.output_file import check_output, reason, write_atomically
from dkic.rate_control.measurement_cache import Measurement
from dkic.rate_control.meter import Distortion
from dkic.rate_control.spool import Spool
from dkic.rate_control.survey import Survey
from dkic.streams import is_stream

# How far from the chosen point is near. Of 2 to 4 pictures the choice by neighbours alone had 1.8 to 3.6 % more distortion than
# the best of all points, 18 % at worst; with 3 each way 0.2 to 0.5 %. Of 11 at 0.075, 0.15 and 0.3 bits per pixel neighbours made
# for LPIPS of 0.1945, 0.1308 and 0.0809, all points at qsteps of -1 to 2 for 0.1945, 0.1313 and 0.0809.
_MOST_LOOKED_AT = 1000  # pictures that are read once more for the sake of a sentence
_FEW, _REACH_OF_FEW, _REACH = 10, 3, 1


@dataclass(frozen=True)
class Written:
    """A file: the picture it is of, its level and qstep, and what was measured of it, the bytes being its own.

    icc: bytes of them that an ICC profile takes. notes: what was left out of the picture when it was read.
    """

    source: str
    target: Path
    point: OperatingPoint
    option: Measurement
    icc: int
    notes: tuple[str, ...]

    @property
    def bpp(self) -> float:
        return self.option.bytes * 8 / self.option.pixels


class ImageSet:
    """Images to bring to a rate together: `measure` each, then `write` their files.

    Args:
        codec: of one or more quality levels.
        target_bpp: bits per pixel that the files take at most.
        kind: whether those are all bits by all pixels ("total_bpp"), or the mean of the pictures' own ("mean_bpp").
        distortion: "lpips" (by AlexNet) or "mse", whose sum over the pictures is to be the least.
        qsteps: choose among qsteps of quantization too, not among levels alone.
        verify, tile, icc, background: as `Codec.compress` has them.
        force: overwrite files that exist.

    Raises:
        DkicError: LPIPS' weights, or a place to keep what is measured, can't be had.
    """

    def __init__(
        self,
        codec: Codec,
        target_bpp: float,
        *,
        kind: Literal["total_bpp", "mean_bpp"] = "total_bpp",
        distortion: Distortion = "lpips",
        qsteps: bool = True,
        verify: bool = True,
        tile: int | None = None,
        icc: Literal["keep", "drop"] = "keep",
        background: str | None = None,
        force: bool = False,
    ) -> None:
        self._survey = Survey(codec, distortion, tile, icc, background)
        self._points = codec.chosen_among if qsteps else self._survey.levels
        self._codec, self._target_bpp, self._kind, self._distortion = codec, target_bpp, kind, distortion
        self._verify, self._tile, self._force = verify, tile, force
        self._pictures: list[tuple[str, Path, str]] = []  # source, target, key
        self._options: list[dict[OperatingPoint, Measurement]] = []

    def __len__(self) -> int:
        """How many are measured."""
        return len(self._pictures)

    def measure(self, source: str, target: Path) -> None:
        """Measures a picture at every level at which no earlier run did.

        Raises:
            DkicError: the picture can't be coded, the distortion is not defined for it, or there can be no file `target`.
        """
        check_output(target, self._force)
        key, options = self._survey.measure(source)
        self._pictures.append((source, target, key))
        self._options.append(dict(zip(self._survey.levels, options, strict=True)))

    def write(self) -> tuple[list[Written], Iterator[tuple[str, str]]]:
        """Chooses, and writes the files: none before it is known that all together keep to the target.

        Returns:
            The files, in the order of `measure`, and what came of it, as (name, value).

        Raises:
            DkicError: the target can't be met, and the message says what can; a picture was changed meanwhile, or can't be coded
                or measured at a qstep; or a file can't be written.
        """
        target, profiles = self._pictures[0][1], list[int]()
        folder = Path(gettempdir()) if is_stream(target) else target.parent
        try:
            with Spool(folder) as spool:
                found = self._code_chosen(spool)
                points = self._chosen(found)
                for i, (_, target, _) in enumerate(self._pictures):
                    data = spool.get(i)
                    profiles.append(icc_section_bytes(unpack(data).icc))
                    write_atomically(target, data, self._force)
        except OSError as error:
            raise DkicError(f"{folder}: can't be written ({reason(error)})") from None
        written = [
            Written(source, target, point, options[point], icc, self._survey.notes.get(source, ()))
            for (source, target, _), options, point, icc in zip(self._pictures, self._options, points, profiles, strict=True)
        ]
        return written, self._facts(written, found)

    def _code_chosen(self, spool: Spool) -> Allocation:
        """Codes each picture at the point chosen, by its number, until the choice is by the sizes of what is coded."""
        coded: dict[int, OperatingPoint] = {}
        while True:
            found = self._best()
            to_do = [(i, point) for i, point in enumerate(self._chosen(found)) if coded.get(i) != point]
            as_measured = True
            for i, point in tqdm(to_do, unit="file", desc="writing", disable=None, leave=False):
                source, _, key = self._pictures[i]
                data = self._coded(source, key, point)
                spool.put(i, data)
                coded[i] = point
                if len(data) != self._options[i][point].bytes:
                    as_measured = False
                    self._options[i][point] = self._options[i][point]._replace(bytes=len(data))
                    self._survey.keep(key, point, self._options[i][point])
            if as_measured:
                return found

    def _best(self) -> Allocation:
        """Of the points measured here, once those near the chosen are."""
        while True:
            try:
                found = self._allocated()
            except Unreachable as error:
                if not self._measure([self._below(options) for options in self._options]):
                    raise DkicError(f"{error}{self._about_profiles()}") from None
            else:
                if not self._measure([self._near(point) for point in self._chosen(found)]):
                    return found

    def _about_profiles(self) -> str:
        """What profiles have to do with it that a rate is out of reach; empty where there are none."""
        if self._survey.icc == "drop":
            return ""
        if len(self) > _MOST_LOOKED_AT:
            return "; ICC profiles count, and --icc drop leaves them out"
        sizes = []
        for source, _, key in self._pictures:
            with _about(source):
                if icc := stored_profile(self._survey.read_unchanged(source, key), self._survey.icc):
                    sizes.append(icc_section_bytes(icc))
        if not sizes:
            return ""
        return f"; ICC profiles of {len(sizes):,} images take {sum(sizes):,} bytes, which --icc drop leaves out"

    def _near(self, point: OperatingPoint) -> list[OperatingPoint]:
        at, reach = self._points.index(point), _REACH_OF_FEW if len(self) <= _FEW else _REACH
        return self._points[max(at - reach, 0) : at + reach + 1]

    def _below(self, options: dict[OperatingPoint, Measurement]) -> list[OperatingPoint]:
        """Next to a picture's lowest point and to that of the fewest bytes: levels may be out of order."""
        lowest = self._points.index(min(options, key=self._points.index))
        least = self._points.index(min(options, key=lambda point: options[point].bytes))
        return [self._points[at - 1] for at in {lowest, least} if at > 0]

    def _measure(self, wanted: list[list[OperatingPoint]]) -> bool:
        """Measures each picture where it is wanted and not measured yet, and says whether there was anything."""
        missing = [
            (i, new)
            for i, (points, options) in enumerate(zip(wanted, self._options, strict=True))
            if (new := [point for point in points if point not in options])
        ]
        for i, points in tqdm(missing, unit="file", desc="measuring qsteps", disable=None, leave=False):
            source, _, key = self._pictures[i]
            with _about(source):
                self._options[i].update(zip(points, self._survey.measure_at(source, key, points), strict=True))
        return bool(missing)

    def _chosen(self, found: Allocation) -> list[OperatingPoint]:
        return [self._points[at] for at in found.choice.tolist()]

    def _coded(self, source: str, key: str, point: OperatingPoint) -> bytes:
        with _about(source):
            picture = self._survey.read_unchanged(source, key)
            options: dict[str, Any] = {"verify": self._verify, "tile": self._tile, "icc": self._survey.icc}
            return self._codec.compress(picture, point.quality, qstep=point.qstep, **options)

    def _allocated(self) -> Allocation:
        names, none = [source for source, _, _ in self._pictures], (np.nan, np.nan, np.nan)
        table = np.array([[options.get(point, none) for point in self._points] for options in self._options], np.float64)
        pixels, size, distortion = np.moveaxis(table, 2, 0)  # [N, M]
        rate, pixels = size * 8 / pixels, np.nanmax(pixels, axis=1)
        return allocate(rate, distortion, self._target_bpp, kind=self._kind, pixels=pixels, names=names)

    def _facts(self, written: list[Written], found: Allocation) -> Iterator[tuple[str, str]]:
        size, pixels = (sum(getattr(file.option, name) for file in written) for name in ("bytes", "pixels"))
        rate = size * 8 / pixels if self._kind == "total_bpp" else np.mean([file.bpp for file in written])
        yield "rate", f"{rate:.6g} of {self._target_bpp:.6g} {UNITS[self._kind]} ({size:,} bytes in {len(written):,} files)"
        yield self._distortion, f"{np.mean([file.option.distortion for file in written]):.6g} in the mean"
        least = f"{found.bound / len(written):.6g} in the mean"
        yield "gap", f"{found.gap:.2g} (of all choices among what was tried, within the rate, none has less than {least})"


@contextmanager
def _about(source: str) -> Iterator[None]:
    """What fails with a picture in one sentence that names it."""
    try:
        yield
    except FAULTS as error:
        raise DkicError(naming(sentence(error), source)) from None
