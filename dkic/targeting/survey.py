"""Pictures measured at the quality levels of a codec, and at other rungs of its ladder, each once: what is measured is kept."""

from collections.abc import Sequence
from typing import Literal

from dkic.cache import cache_folder
from dkic.coding.codec import Codec
from dkic.coding.image_io import Picture, read_picture
from dkic.coding.ladder import Rung
from dkic.entropy.quantization import PARTS
from dkic.errors import DkicError
from dkic.targeting.measured import Measured, Option, picture_key
from dkic.targeting.meter import Distortion, Meter


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
        self._kept = {name: Measured(cache_folder(), name, distortion) for name in hashes}

    def look_up(self, source: str) -> tuple[str, list[Option | None]]:
        """A picture's key, and its options by level, None where none is kept. Raises DkicError: it can't be read."""
        key = self._key(source)
        return key, self._known(key, self.levels)

    def keep(self, key: str, rung: Rung, option: Option) -> None:
        """Keeps what was measured of the picture with this key there. Raises DkicError: it can't be written."""
        kept, place = self._place(rung)
        kept.add(key, option, place)

    def measure(self, source: str) -> tuple[str, list[Option]]:
        """A picture's key, and its options by level, measured where none is kept.

        Raises:
            DkicError: the picture can't be coded, or the distortion is not defined for it.
        """
        key = self._key(source)
        return key, self.measure_at(source, key, self.levels)

    def measure_at(self, source: str, key: str, rungs: Sequence[Rung]) -> list[Option]:
        """The options at these rungs of the picture that has this key. Raises as `measure` does, and where it has it no more."""
        known = self._known(key, rungs)
        picture = self.read_unchanged(source, key) if None in known else None
        options = []
        for rung, option in zip(rungs, known, strict=True):
            if option is None:
                assert picture is not None
                option = self.meter.measure(picture, *rung)
                self.keep(key, rung, option)
            options.append(option)
        return options

    def _known(self, key: str, rungs: Sequence[Rung]) -> list[Option | None]:
        return [kept.get(key, place) for kept, place in map(self._place, rungs)]

    def _place(self, rung: Rung) -> tuple[Measured, int]:
        """Where a rung's options are kept, and as which step: of a variable-rate model's one file by the operating point."""
        kept = self._kept[self._codec.model_hash(rung.quality)]
        return kept, rung.quality * PARTS - rung.step if self._codec.variable_rate else rung.step

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
