"""Shape of a codec of one quality.

The paper gives neither widths nor groups nor the direction of the asymmetry; every number is our choice.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dkic.entropy.tables import MAX_TABLES, SCALES
from dkic.errors import DkicError

LATENT_STRIDE = 16  # pixels a position of the latent, in each direction

# A weights file states its config, so these bound what a damaged one can make dkic do. They leave
# the largest presets room to grow by two to five times.
MAX_CHANNELS = 1024
MAX_BOTTLENECKS = 16
MAX_SLICES = 16
# Every channel of z has its own table, after those of the Gaussians, and a table's index is one byte.
MAX_HYPER_CHANNELS = MAX_TABLES - len(SCALES)


def within(value: object, low: int, high: int) -> bool:
    """Whether it is an int (True is none) in these bounds, which JSON doesn't promise."""
    return type(value) is int and low <= value <= high


@dataclass(frozen=True)
class SliceSpec:
    """A slice of the latent: how many channels, and in how many spatial passes it is coded.

    passes: 1 = all at once, 2 = checkerboard, 4 = the cells of a 2x2 grid one after the other.
    """

    channels: int
    passes: int

    def __post_init__(self) -> None:
        if not within(self.channels, 1, MAX_CHANNELS) or not within(self.passes, 1, 4) or self.passes == 3:
            given = f"{self.channels!r:.40} and {self.passes!r:.40}"
            raise DkicError(f"a slice needs 1 to {MAX_CHANNELS} channels and 1, 2 or 4 passes, not {given}")


def check_number(name: str, value: object, low: int, high: int) -> None:
    """Raises DkicError where a config's number is not a whole one in these bounds."""
    if not within(value, low, high):
        raise DkicError(f"{name} must be a whole number from {low} to {high}, not {value!r:.40}")


def check_slices(slices: object) -> None:
    """Raises DkicError where they can't be a latent's."""
    if not isinstance(slices, tuple) or not 1 <= len(slices) <= MAX_SLICES or sum(s.channels for s in slices) > MAX_CHANNELS:
        raise DkicError(f"there must be 1 to {MAX_SLICES} slices, with at most {MAX_CHANNELS} channels together")


def check_keys(config: type, values: dict[str, Any]) -> None:
    """Raises DkicError, naming them, where keys of a config's dict are unknown or missing."""
    known = {f.name for f in fields(config)}
    if wrong := sorted(known ^ set(values)):
        raise DkicError(f"a model config needs exactly the keys {sorted(known)}; unknown or missing: {wrong}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a codec.

    widths: channels at 1/2, 1/4 and 1/8 of the image's size; the latent at 1/16 has the slices' channels together.
    groups: LDCN groups at those three sizes. bottlenecks: residual bottlenecks in a DRBG there.
    hyper_channels: channels of z, at 1/64. hyper_groups: LDCN groups in the hyper-synthesis.
    hyper_features: channels that the hyper-synthesis hands to every slice. context_channels: width of a slice's context network.
    """

    widths: tuple[int, int, int]
    groups: tuple[int, int, int]
    bottlenecks: tuple[int, int, int]
    slices: tuple[SliceSpec, ...]
    hyper_channels: int
    hyper_groups: int
    hyper_features: int
    context_channels: int

    def __post_init__(self) -> None:
        for name, low, high in (
            ("widths", 2, MAX_CHANNELS),  # a bottleneck is half as wide
            ("groups", 1, MAX_CHANNELS),
            ("bottlenecks", 0, MAX_BOTTLENECKS),
        ):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != 3 or not all(within(v, low, high) for v in values):
                raise DkicError(f"{name} must be 3 whole numbers from {low} to {high}, not {values!r:.40}")
        check_number("hyper_channels", self.hyper_channels, 1, MAX_HYPER_CHANNELS)
        check_number("hyper_groups", self.hyper_groups, 1, MAX_HYPER_CHANNELS)
        check_number("hyper_features", self.hyper_features, 1, MAX_CHANNELS)
        check_number("context_channels", self.context_channels, 1, MAX_CHANNELS)
        check_slices(self.slices)
        for width, groups in zip((*self.widths, self.hyper_channels), (*self.groups, self.hyper_groups), strict=True):
            if width % groups:
                raise DkicError(f"groups must divide the channels they split, and {groups} does not divide {width}")

    @property
    def latent_channels(self) -> int:
        return sum(s.channels for s in self.slices)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of to_dict, also after a trip through JSON; an unknown or missing key is an error naming it."""
        check_keys(cls, values)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["slices"] = tuple(SliceSpec(**s) for s in values["slices"])
        return cls(**values)
