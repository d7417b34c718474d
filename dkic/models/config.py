"""The codec's shape: presets `tiny` and `base`.

The paper gives neither widths nor groups nor the direction of the asymmetry; every number here is our choice.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from dkic.errors import DkicError


@dataclass(frozen=True)
class SliceSpec:
    """A slice of the latent: how many channels, and in how many spatial passes it is coded.

    passes: 1 = all at once, 2 = checkerboard, 4 = the cells of a 2x2 grid one after the other.
    """

    channels: int
    passes: int

    def __post_init__(self) -> None:
        if self.channels < 1 or self.passes not in (1, 2, 4):
            raise DkicError(f"a slice needs channels >= 1 and 1, 2 or 4 passes, not {self.channels} and {self.passes}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a codec.

    widths: channels at 1/2, 1/4 and 1/8 of the picture's size; the latent at 1/16 has the slices' channels together.
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

    @property
    def latent_channels(self) -> int:
        return sum(s.channels for s in self.slices)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of to_dict, also after a trip through JSON; an unknown or missing key is an error naming it."""
        known = {f.name for f in fields(cls)}
        if wrong := sorted(known ^ set(values)):
            raise DkicError(f"a model config needs exactly the keys {sorted(known)}; unknown or missing: {wrong}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        values["slices"] = tuple(SliceSpec(**s) for s in values["slices"])
        return cls(**values)


PRESETS: dict[str, ModelConfig] = {
    # For the CPU: at most 3.2 M parameters and 40 kMAC per pixel each way. Most of the work is at 1/8 and below, where a
    # channel costs least; the thin 1/2-size stage is what full-size memory traffic allows.
    "tiny": ModelConfig(
        widths=(24, 48, 96),
        groups=(1, 3, 6),
        bottlenecks=(1, 2, 3),
        slices=(SliceSpec(8, 4), SliceSpec(8, 4), SliceSpec(16, 2), SliceSpec(32, 2), SliceSpec(64, 1)),
        hyper_channels=64,
        hyper_groups=4,
        hyper_features=128,
        context_channels=96,
    ),
    # For a GPU: 483 kMAC per pixel both ways together, within the 574 that ELIC takes.
    "base": ModelConfig(
        widths=(128, 192, 256),
        groups=(8, 12, 16),
        bottlenecks=(3, 3, 3),
        slices=(SliceSpec(16, 4), SliceSpec(16, 4), SliceSpec(32, 2), SliceSpec(64, 2), SliceSpec(192, 1)),
        hyper_channels=192,
        hyper_groups=12,
        hyper_features=320,
        context_channels=256,
    ),
}
