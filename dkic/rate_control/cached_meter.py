"""`CachedMeter` measures image files at operating points, each once: measurements are kept on disk."""

from collections.abc import Sequence
from typing import Literal

from dkic.cache import cache_folder
from dkic.coding.codec import Codec
from dkic.coding.image_data import ImageData
from dkic.coding.image_reading import read_image
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import DkicError
from dkic.evaluation.measurement import Measurement
from dkic.rate_control.measurement_cache import MeasurementCache, image_key
from dkic.rate_control.meter import Distortion, Meter


class CachedMeter:
    """Measurements of image files, from the cache or measured now.

    Args:
        codec: of one or more qualities.
        distortion, tile, icc: as in `Meter`.
        background: as in `Codec.compress`.

    Attributes:
        points: operating points at which `measure` measures each image.
        notes: by source, what was dropped from the images that were read.

    Raises:
        DkicError: the weights of LPIPS are not available, or the cache folder can't be written.
    """

    def __init__(
        self,
        codec: Codec,
        distortion: Distortion = "lpips",
        tile: int | None = None,
        icc: Literal["keep", "drop"] = "keep",
        background: str | None = None,
    ) -> None:
        self.points = codec.points.measured_first()
        self.icc, self.background = icc, background
        self.notes: dict[str, tuple[str, ...]] = {}
        self.meter = Meter(codec, distortion, tile, icc)
        self._codec = codec
        hashes = dict.fromkeys(codec.model_hash(quality) for quality in codec.qualities)
        self._caches = {name: MeasurementCache(cache_folder(), name, distortion) for name in hashes}

    def look_up(self, source: str) -> tuple[str, list[Measurement | None]]:
        """Key of an image file, and its cached measurements at `points`, None if there is none. Raises DkicError: unreadable."""
        key = self._key(source)
        return key, self._cached(key, self.points)

    def store(self, key: str, point: OperatingPoint, measurement: Measurement) -> None:
        """Caches a measurement of the image with this key. Raises DkicError: it can't be written."""
        cache, number = self._place(point)
        cache.add(key, measurement, number)

    def measure(self, source: str) -> tuple[str, list[Measurement]]:
        """Key of an image file, and its measurements at `points`.

        Raises:
            DkicError: the image can't be coded, or the distortion is not defined for it.
        """
        key = self._key(source)
        return key, self.measure_at(source, key, self.points)

    def measure_at(self, source: str, key: str, points: Sequence[OperatingPoint]) -> list[Measurement]:
        """Measurements at these points of the image with this key. Raises as `measure` does, and if the file has changed."""
        cached = self._cached(key, points)
        image = self.read_unchanged(source, key) if None in cached else None
        measurements = []
        for point, measurement in zip(points, cached, strict=True):
            if measurement is None:
                assert image is not None
                measurement = self.meter.measure(image, point)
                self.store(key, point, measurement)
            measurements.append(measurement)
        return measurements

    def _cached(self, key: str, points: Sequence[OperatingPoint]) -> list[Measurement | None]:
        return [cache.get(key, number) for cache, number in map(self._place, points)]

    def _place(self, point: OperatingPoint) -> tuple[MeasurementCache, int]:
        """A point's cache and its number there."""
        cache = self._caches[self._codec.model_hash(point.quality)]
        return cache, self._codec.points.cache_number(point)

    def read_unchanged(self, source: str, key: str) -> ImageData:
        """The image with this key; measurements of another one must not be cached under it. Raises DkicError."""
        image = read_image(source, self.background)
        self.notes[source] = image.notes
        if self._key(source) != key:
            raise changed(source)
        return image

    def _key(self, source: str) -> str:
        return image_key(source, self.icc, self.background)


def changed(source: str) -> DkicError:
    return DkicError(f"{source}: the file changed during the run; run the command again")
