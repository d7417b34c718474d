"""Shape of a variable-rate codec: presets `small` and `base`."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, get_args

from dkic.errors import DkicError
from dkic.models.config import LATENT_STRIDE, MAX_CHANNELS, SliceSpec, check_keys, check_number, check_slices

Kernel = Literal["ldcn", "conv"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
MAX_BLOCKS = 16  # in a stage
MAX_POINTS = 100
_MAX_STAGES = 4


@dataclass(frozen=True)
class StageSpec:
    """A stage of a transform.

    stride: its input's size divided by its own. width: channels. blocks: mixing blocks. kernel: what mixes neighbouring
    positions in them, "ldcn" or "conv" (depthwise 3x3). groups: LDCN groups; must divide width.
    """

    stride: int
    width: int
    blocks: int
    kernel: Kernel = "ldcn"
    groups: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("stride", 1, LATENT_STRIDE),
            ("width", 1, MAX_CHANNELS),
            ("blocks", 0, MAX_BLOCKS),
            ("groups", 1, MAX_CHANNELS),
        ):
            check_number(f"a stage's {name}", getattr(self, name), low, high)
        if self.kernel not in KERNELS:
            raise DkicError(f"a stage's kernel must be {' or '.join(KERNELS)}, not {self.kernel!r:.40}")
        if self.width % self.groups:
            raise DkicError(f"groups must divide the width, and {self.groups} does not divide {self.width}")


@dataclass(frozen=True)
class VariableRateConfig:
    """Shape of a variable-rate codec.

    analysis: stages from the image to the latent, strides 16 together. synthesis: the same, and walked backwards.
    slices: of the latent's channels, see SliceSpec. context_channels: width of a slice's context network.
    quality_points: number of qualities at which what depends on the quality is learned, see QualityTable.
    quality_features: channels that tell the context network the quality.
    """

    analysis: tuple[StageSpec, ...]
    synthesis: tuple[StageSpec, ...]
    slices: tuple[SliceSpec, ...]
    context_channels: int
    quality_points: int = 8
    quality_features: int = 16

    def __post_init__(self) -> None:
        for name in ("analysis", "synthesis"):
            stages = getattr(self, name)
            if not isinstance(stages, tuple) or not 1 <= len(stages) <= _MAX_STAGES:
                raise DkicError(f"{name} must have 1 to {_MAX_STAGES} stages")
            if prod(stage.stride for stage in stages) != LATENT_STRIDE:
                raise DkicError(f"the strides of {name} must be {LATENT_STRIDE} together, not {[s.stride for s in stages]}")
            if any(stage.stride != 2 for stage in stages[1:]):
                raise DkicError(f"only the first stage of {name} may have a stride other than 2")
        check_number("context_channels", self.context_channels, 1, MAX_CHANNELS)
        check_number("quality_points", self.quality_points, 2, MAX_POINTS)
        check_number("quality_features", self.quality_features, 1, MAX_CHANNELS)
        check_slices(self.slices)

    @property
    def latent_channels(self) -> int:
        return sum(s.channels for s in self.slices)

    @property
    def hyper_channels(self) -> int:
        """There is no hyper-prior."""
        return 0

    @property
    def hyper_features(self) -> int:
        """Channels that the context network sees before any of the latent."""
        return self.quality_features

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VariableRateConfig":
        """The inverse of to_dict, also after a trip through JSON; an unknown or missing key is an error naming it."""
        check_keys(cls, values)
        specs = {"analysis": StageSpec, "synthesis": StageSpec, "slices": SliceSpec}
        arguments: dict[str, Any] = {k: tuple(specs[k](**s) for s in v) if k in specs else v for k, v in values.items()}
        return cls(**arguments)
