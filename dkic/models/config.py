"""Architecture parameters of a codec network of one quality.

The paper states neither widths nor groups nor the direction of the asymmetry; all of these are our choice.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dkic.entropy.tables import MAX_TABLES, SCALES
from dkic.errors import DkicError

LATENT_STRIDE = 16  # pixels per position of the latent, in each direction

# These bound the memory and time that a damaged weights file, which contains its config, can cause. They are two to five times
# the numbers of the largest presets.
MAX_CHANNELS = 1024
MAX_BOTTLENECKS = 16
MAX_SLICES = 16
# Every channel of z has a table, after those of the Gaussians, and a table index is one byte.
MAX_HYPER_CHANNELS = MAX_TABLES - len(SCALES)


def within(value: object, low: int, high: int) -> bool:
    """Whether `value`, which may come from JSON, is an int from low to high; a bool is not."""
    return type(value) is int and low <= value <= high


@dataclass(frozen=True)
class SliceSpec:
    """A slice of the latent.

    Args:
        channels: its number of channels.
        passes: number of spatial passes in which it is coded: 1 for all positions at once, 2 for a checkerboard, 4 for the
            cells of a 2x2 grid in order.

    Raises:
        DkicError: a number is out of range.
    """

    channels: int
    passes: int

    def __post_init__(self) -> None:
        if not within(self.channels, 1, MAX_CHANNELS) or not within(self.passes, 1, 4) or self.passes == 3:
            given = f"{self.channels!r:.40} channels and {self.passes!r:.40} passes"
            raise DkicError(f"slices: one has {given}; give 1 to {MAX_CHANNELS} channels and 1, 2 or 4 passes")


def check_number(name: str, value: object, low: int, high: int) -> None:
    """Raises DkicError unless `value` is an int from low to high."""
    if not within(value, low, high):
        raise DkicError(f"{name}: is {value!r:.40}; give an integer from {low} to {high}")


def check_slices(slices: object) -> None:
    """Raises DkicError unless `slices` is a tuple of valid size and total number of channels."""
    if not isinstance(slices, tuple) or not 1 <= len(slices) <= MAX_SLICES or sum(s.channels for s in slices) > MAX_CHANNELS:
        limits = f"1 to {MAX_SLICES} of them, with at most {MAX_CHANNELS} channels in total"
        raise DkicError(f"slices: are {slices!r:.40}; give a tuple of {limits}")


def check_keys(config: type, values: dict[str, Any]) -> None:
    """Raises DkicError that names the keys if any key of a config's dict is unknown or missing."""
    known = {f.name for f in fields(config)}
    if wrong := sorted(known ^ set(values)):
        raise DkicError(f"{config.__name__}: unknown or missing keys {wrong}; give exactly {sorted(known)}")


@dataclass(frozen=True)
class ModelConfig:
    """Architecture parameters of `DKIC`.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the image's size.
        groups: LDCN groups at those three sizes.
        bottlenecks: residual bottlenecks in the DRBG at those three sizes.
        slices: of the channels of the latent, which is at 1/16.
        hyper_channels: channels of z, at 1/64.
        hyper_groups: LDCN groups in the hyper-synthesis.
        hyper_features: channels of the hyper-synthesis' output, an input of every slice's context network.
        context_channels: width of a slice's context network.

    Raises:
        DkicError: a number is out of range, or groups do not divide channels.
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
                raise DkicError(f"{name}: is {values!r:.40}; give a tuple of 3 integers from {low} to {high}")
        check_number("hyper_channels", self.hyper_channels, 1, MAX_HYPER_CHANNELS)
        check_number("hyper_groups", self.hyper_groups, 1, MAX_HYPER_CHANNELS)
        check_number("hyper_features", self.hyper_features, 1, MAX_CHANNELS)
        check_number("context_channels", self.context_channels, 1, MAX_CHANNELS)
        check_slices(self.slices)
        for width, groups in zip((*self.widths, self.hyper_channels), (*self.groups, self.hyper_groups), strict=True):
            if width % groups:
                raise DkicError(f"groups: {groups} does not divide {width} channels; give a divisor")

    @property
    def latent_channels(self) -> int:
        return sum(s.channels for s in self.slices)

    @property
    def receptive_field(self) -> int:
        """How many pixels around a tile its latent or image depends on.

        That of `tiny` reaches about 90, plus the offsets of LDCN. With 192 as many pixels of five images differ from the untiled
        result as with 128: 3 in 100,000, by 1.
        """
        return 128

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`, also after JSON. Raises DkicError that names unknown and missing keys."""
        check_keys(cls, values)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["slices"] = tuple(SliceSpec(**s) for s in values["slices"])
        return cls(**values)
