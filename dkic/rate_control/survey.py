"""Pictures measured at the qualities of a codec, and at other operating points, each once: what is measured is kept."""

from collections.abc import Sequence
from typing import Literal

from dkic.cache import cache_folder
from dkic.coding.codec import Codec
from dkic.coding.image_io import Picture, read_picture
from dkic.coding.operating_points import OperatingPoint
from dkic.entropy.quantization import PARTS
from dkic.errors import DkicError
from dkic.rate_control.measurement_cache import Measurement, MeasurementCache, picture_key
from dkic.rate_control.meter import Distortion, Meter


class Survey:
    """What pictures cost, from earlier runs or measured now.

    Args:
        codec: of one or more quality levels.
        distortion, tile, icc: as `Meter` has them.
        background: as `Codec.compress` has it.

    Attributes:
        notes: by source, what was left out of the pictures that were read.

    Raises:
        DkicError: LPIPS' weights, or a place to keep what is measured, can't be had.
    """

    def __init__(
        self,
        codec: Codec,
        distortion: Distortion = "lpips",
        tile: int | None = None,
        icc: Literal["keep", "drop"] = "keep",
        background: str | None = None,
    ) -> None:
        self.levels = codec.measured_first
        self.icc, self.background = icc, background
        self.notes: dict[str, tuple[str, ...]] = {}
        self.meter = Meter(codec, distortion, tile, icc)
        self._codec = codec
        hashes = dict.fromkeys(codec.model_hash(quality) for quality in codec.qualities)
        self._kept = {name: MeasurementCache(cache_folder(), name, distortion) for name in hashes}

    def look_up(self, source: str) -> tuple[str, list[Measurement | None]]:
        """A picture's key, and its options by level, None where none is kept. Raises DkicError: it can't be read."""
        key = self._key(source)
        return key, self._known(key, self.levels)

    def keep(self, key: str, point: OperatingPoint, option: Measurement) -> None:
        """Keeps what was measured of the picture with this key there. Raises DkicError: it can't be written."""
        kept, place = self._place(point)
        kept.add(key, option, place)

    def measure(self, source: str) -> tuple[str, list[Measurement]]:
        """A picture's key, and its options by level, measured where none is kept.

        Raises:
            DkicError: the picture can't be coded, or the distortion is not defined for it.
        """
        key = self._key(source)
        return key, self.measure_at(source, key, self.levels)

    def measure_at(self, source: str, key: str, points: Sequence[OperatingPoint]) -> list[Measurement]:
        """The options at these points of the picture that has this key. Raises as `measure` does, and where it has it no more."""
        known = self._known(key, points)
        picture = self.read_unchanged(source, key) if None in known else None
        options = []
        for point, option in zip(points, known, strict=True):
            if option is None:
                assert picture is not None
                option = self.meter.measure(picture, *point)
                self.keep(key, point, option)
            options.append(option)
        return options

    def _known(self, key: str, points: Sequence[OperatingPoint]) -> list[Measurement | None]:
        return [kept.get(key, place) for kept, place in map(self._place, points)]

    def _place(self, point: OperatingPoint) -> tuple[MeasurementCache, int]:
        """Where a point's options are kept, and as which qstep: of a variable-rate model's one file by the operating point."""
        kept = self._kept[self._codec.model_hash(point.quality)]
        return kept, point.quality * PARTS - point.qstep if self._codec.variable_rate else point.qstep

    def read_unchanged(self, source: str, key: str) -> Picture:
        """The picture that has this key: nothing that is measured of another one may be kept for it. Raises DkicError."""
        picture = read_picture(source, self.background)
        self.notes[source] = picture.notes
        if self._key(source) != key:
            raise changed(source)
        return picture

    def _key(self, source: str) -> str:
        return picture_key(source, self.icc, self.background)


def changed(source: str) -> DkicError:
    return DkicError(f"{source}: the file was changed meanwhile; run the command again")
