"""Pictures measured at every quality level of a codec, each once: what is measured is kept."""

from dkic.cache import cache_folder
from dkic.coding.codec import Codec
from dkic.coding.image_io import Picture, read_picture
from dkic.errors import DkicError
from dkic.targeting.measured import Measured, Option, picture_key
from dkic.targeting.meter import Distortion, Meter


class Survey:
    """What pictures cost at every level, from earlier runs or measured now.

    Args:
        codec: of one or more quality levels.
        distortion, tile: as `Meter` has them.

    Raises:
        DkicError: LPIPS' weights, or a place to keep what is measured, can't be had.
    """

    def __init__(self, codec: Codec, distortion: Distortion = "lpips", tile: int | None = None) -> None:
        self.qualities = codec.qualities
        self.meter = Meter(codec, distortion, tile)
        self._levels = [Measured(cache_folder(), codec.model_hash(quality), distortion) for quality in self.qualities]

    def look_up(self, source: str) -> tuple[str, list[Option | None]]:
        """A picture's key, and its options by level, None where none is kept. Raises DkicError: it can't be read."""
        key = picture_key(source)
        return key, [level.get(key) for level in self._levels]

    def keep(self, key: str, level: int, option: Option) -> None:
        """Keeps what was measured of the picture with this key at `qualities[level]`. Raises DkicError: it can't be written."""
        self._levels[level].add(key, option)

    def measure(self, source: str) -> tuple[str, list[Option]]:
        """A picture's key, and its options by level, measured where none is kept.

        Raises:
            DkicError: the picture can't be coded, or the distortion is not defined for it.
        """
        key, known = self.look_up(source)
        picture = read_unchanged(source, key) if None in known else None
        options = []
        for level, option in enumerate(known):
            if option is None:
                assert picture is not None
                option = self.meter.measure(picture, self.qualities[level])
                self.keep(key, level, option)
            options.append(option)
        return key, options


def read_unchanged(source: str, key: str) -> Picture:
    """The picture that has this key: nothing that is measured of another one may be kept for it. Raises DkicError."""
    picture = read_picture(source)
    if picture_key(source) != key:
        raise changed(source)
    return picture


def changed(source: str) -> DkicError:
    return DkicError(f"{source}: the file was changed meanwhile; run the command again")
