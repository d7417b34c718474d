"""`ImageSet` encodes a set of images to a common target rate with nearly the least total distortion.

Each image is measured at every quality (of a variable-rate model, every ninth), and dkic.allocation chooses operating points. The
operating points near the chosen ones are then measured too, and the choice is repeated until all neighbors are measured. Cached
measurements elsewhere are ignored, so the same command always writes the same files. The chosen files are encoded again. If a
file's size differs from its measurement (of an earlier run with other threads or on another machine, where the transforms round
differently), the actual size replaces it and the choice is repeated: the reported rate is that of the actual files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Literal

import numpy as np

from dkic.allocation import Allocation, allocate
from dkic.allocation.problem import UNITS, Unreachable
from dkic.coding.codec import Codec, stored_profile
from dkic.coding.container import icc_section_bytes, unpack
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import FAULTS, DkicError, naming, sentence
from dkic.evaluation.measurement import Measurement
from dkic.output_file import check_output, reason, write_atomically
from dkic.progress import Progress, unseen
from dkic.rate_control.cached_meter import CachedMeter
from dkic.rate_control.meter import Distortion
from dkic.rate_control.spool import Spool
from dkic.streams import is_stream

# Number of operating points on each side of the chosen one that are measured. For 2 to 4 images one neighbor each way had 1.8 to
# 3.6 % (at worst 18 %) more distortion than the best choice, 3 each way 0.2 to 0.5 %. For 11 images at 0.075, 0.15 and 0.3 bpp
# one neighbor reached LPIPS 0.1945, 0.1308 and 0.0809; all points with qsteps -1 to 2 reached 0.1945, 0.1313 and 0.0809.
_FEW, _REACH_OF_FEW, _REACH = 10, 3, 1
_MOST_REREAD = 1000  # images that are read again to report the sizes of their ICC profiles


@dataclass(frozen=True)
class Written:
    """A written file: its image, operating point and measurement; the bytes are the file's actual size.

    icc: bytes of the file's ICC profile. notes: what was dropped from the image when it was read.
    """

    source: str
    target: Path
    point: OperatingPoint
    measurement: Measurement
    icc: int
    notes: tuple[str, ...]


class ImageSet:
    """Images that share a target rate: `measure` each, then `write` their files.

    Args:
        codec: of one or more qualities.
        target_bpp: upper bound of the bits per pixel.
        kind: "total_bpp", all bits divided by all pixels, or "mean_bpp", the mean of the images' bits per pixel.
        distortion: "lpips" (AlexNet) or "mse"; its sum over the images is minimized.
        qsteps: choose among all candidates, not only among the qualities that are measured first.
        verify, tile, icc, background: as in `Codec.compress`.
        force: overwrite existing files.
        progress: shows what is measured and written.

    Raises:
        DkicError: the weights of LPIPS are not available, or the cache folder can't be written.
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
        progress: Progress = unseen,
    ) -> None:
        self._progress = progress
        self._meter = CachedMeter(codec, distortion, tile, icc, background)
        self._points = codec.points.candidates() if qsteps else self._meter.points
        self._columns = {point: column for column, point in enumerate(self._points)}
        self._codec, self._target_bpp, self._kind, self._distortion = codec, target_bpp, kind, distortion
        self._verify, self._tile, self._force = verify, tile, force
        self._images: list[tuple[str, Path, str]] = []  # source, target, key
        self._measurements: list[dict[OperatingPoint, Measurement]] = []

    def __len__(self) -> int:
        """Number of measured images."""
        return len(self._images)

    def measure(self, source: str, target: Path) -> None:
        """Measures an image at the qualities that are measured first, unless they are in the cache.

        Raises:
            DkicError: the image can't be coded, the distortion is not defined for it, or `target` can't be written.
        """
        check_output(target, self._force)
        key, measurements = self._meter.measure(source)
        self._images.append((source, target, key))
        self._measurements.append(dict(zip(self._meter.points, measurements, strict=True)))

    def write(self) -> tuple[list[Written], Iterator[tuple[str, str]]]:
        """Chooses operating points and writes the files, after their total size is known to be within the target.

        Returns:
            The files, in the order of `measure`, and a summary as pairs (name, value).

        Raises:
            DkicError: the target can't be met (the message names the least rate), an image changed or can't be coded or measured
                at a qstep, or a file can't be written.
        """
        target, profiles = self._images[0][1], list[int]()
        folder = Path(gettempdir()) if is_stream(target) else target.parent
        try:
            with Spool(folder) as spool:
                found = self._code_chosen(spool)
                points = self._chosen(found)
                for i, (_, target, _) in enumerate(self._images):
                    data = spool.get(i)
                    profiles.append(icc_section_bytes(unpack(data).icc))
                    write_atomically(target, data, self._force)
        except OSError as error:
            raise DkicError(f"{folder}: can't be written ({reason(error)})") from None
        written = [
            Written(source, target, point, measurements[point], icc, self._meter.notes.get(source, ()))
            for (source, target, _), measurements, point, icc in zip(
                self._images, self._measurements, points, profiles, strict=True
            )
        ]
        return written, self._facts(written, found)

    def _code_chosen(self, spool: Spool) -> Allocation:
        """Encodes each image at its chosen point; repeats the choice until it agrees with the actual file sizes."""
        coded: dict[int, OperatingPoint] = {}
        while True:
            found = self._best()
            to_do = [(i, point) for i, point in enumerate(self._chosen(found)) if coded.get(i) != point]
            as_measured = True
            for i, point in self._progress(to_do, "writing"):
                source, _, key = self._images[i]
                data = self._coded(source, key, point)
                spool.put(i, data)
                coded[i] = point
                if len(data) != self._measurements[i][point].bytes:
                    as_measured = False
                    self._measurements[i][point] = replace(self._measurements[i][point], bytes=len(data))
                    self._meter.store(key, point, self._measurements[i][point])
            if as_measured:
                return found

    def _best(self) -> Allocation:
        """The allocation, after the points near the chosen ones are measured."""
        while True:
            try:
                found = self._allocated()
            except Unreachable as error:
                if not self._measure([self._below(measurements) for measurements in self._measurements]):
                    raise DkicError(f"{error}{self._profile_note()}") from None
            else:
                if not self._measure([self._near(point) for point in self._chosen(found)]):
                    return found

    def _profile_note(self) -> str:
        """The bytes of ICC profiles, for the error that a rate is out of reach; empty if there are none."""
        if self._meter.icc == "drop":
            return ""
        if len(self) > _MOST_REREAD:
            return "; ICC profiles count, and --icc drop leaves them out"
        sizes = []
        for source, _, key in self._images:
            with _naming_errors(source):
                if icc := stored_profile(self._meter.read_unchanged(source, key), self._meter.icc):
                    sizes.append(icc_section_bytes(icc))
        if not sizes:
            return ""
        return f"; ICC profiles of {len(sizes):,} images take {sum(sizes):,} bytes, which --icc drop leaves out"

    def _near(self, point: OperatingPoint) -> list[OperatingPoint]:
        at, reach = self._columns[point], _REACH_OF_FEW if len(self) <= _FEW else _REACH
        return self._points[max(at - reach, 0) : at + reach + 1]

    def _below(self, measurements: dict[OperatingPoint, Measurement]) -> list[OperatingPoint]:
        """The points below an image's lowest point and below that of the fewest bytes: a higher quality may take fewer bytes."""
        lowest = self._columns[min(measurements, key=self._columns.__getitem__)]
        least = self._columns[min(measurements, key=lambda point: measurements[point].bytes)]
        return [self._points[at - 1] for at in {lowest, least} if at > 0]

    def _measure(self, wanted: list[list[OperatingPoint]]) -> bool:
        """Measures each image at the wanted points that are not measured yet. Returns whether there were any."""
        missing = [
            (i, new)
            for i, (points, measurements) in enumerate(zip(wanted, self._measurements, strict=True))
            if (new := [point for point in points if point not in measurements])
        ]
        for i, points in self._progress(missing, "measuring operating points"):
            source, _, key = self._images[i]
            with _naming_errors(source):
                self._measurements[i].update(zip(points, self._meter.measure_at(source, key, points), strict=True))
        return bool(missing)

    def _chosen(self, found: Allocation) -> list[OperatingPoint]:
        return [self._points[at] for at in found.choice.tolist()]

    def _coded(self, source: str, key: str, point: OperatingPoint) -> bytes:
        with _naming_errors(source):
            image = self._meter.read_unchanged(source, key)
            options: dict[str, Any] = {"verify": self._verify, "tile": self._tile, "icc": self._meter.icc}
            return self._codec.compress(image, point.quality, qstep=point.qstep, **options)

    def _allocated(self) -> Allocation:
        names = [source for source, _, _ in self._images]
        rate, distortion = np.full((2, len(names), len(self._points)), np.nan)
        for i, measurements in enumerate(self._measurements):
            for point, measurement in measurements.items():
                at = i, self._columns[point]
                rate[at], distortion[at] = measurement.bpp, measurement.scores[self._distortion]
        pixels = np.array([next(iter(measurements.values())).pixels for measurements in self._measurements])
        return allocate(rate, distortion, self._target_bpp, kind=self._kind, pixels=pixels, names=names)

    def _facts(self, written: list[Written], found: Allocation) -> Iterator[tuple[str, str]]:
        size, pixels = (sum(getattr(file.measurement, name) for file in written) for name in ("bytes", "pixels"))
        rate = size * 8 / pixels if self._kind == "total_bpp" else np.mean([file.measurement.bpp for file in written])
        yield "rate", f"{rate:.6g} of {self._target_bpp:.6g} {UNITS[self._kind]} ({size:,} bytes in {len(written):,} files)"
        yield self._distortion, f"{np.mean([file.measurement.scores[self._distortion] for file in written]):.6g} in the mean"
        least = f"{found.bound / len(written):.6g} in the mean"
        yield "gap", f"{found.gap:.2g} (of all choices among what was tried, within the rate, none has less than {least})"


@contextmanager
def _naming_errors(source: str) -> Iterator[None]:
    """Errors with an image as one sentence that names it."""
    try:
        yield
    except FAULTS as error:
        raise DkicError(naming(sentence(error), source)) from None
