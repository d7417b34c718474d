"""Architecture parameters of a variable-rate codec network: the presets `small` and `base`."""

from dataclasses import asdict, dataclass
from itertools import accumulate
from math import prod
from operator import mul
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

    Args:
        stride: size of its input relative to its own size.
        width: channels.
        blocks: number of mixing blocks.
        kernel: what mixes neighboring positions in a block: "ldcn" or "conv" (depthwise 3x3).
        groups: LDCN groups; must divide width.

    Raises:
        DkicError: a number is out of range, or groups do not divide width.
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
            check_number(f"stage.{name}", getattr(self, name), low, high)
        if self.kernel not in KERNELS:
            raise DkicError(f"stage.kernel: is {self.kernel!r:.40}; give {' or '.join(KERNELS)}")
        if self.width % self.groups:
            raise DkicError(f"stage.groups: {self.groups} does not divide the width {self.width}; give a divisor")


@dataclass(frozen=True)
class VariableRateConfig:
    """Architecture parameters of `VariableRateDKIC`.

    Args:
        analysis: stages from the image to the latent; the product of their strides is 16.
        synthesis: stages in the same order; the synthesis applies them from the last to the first.
        slices: of the channels of the latent, see SliceSpec.
        context_channels: width of a slice's context network.
        quality_points: number of qualities at which quality-dependent vectors are learned, see QualityTable.
        quality_features: channels of the features of the quality, an input of the context network.
        upsampling_kernel: side of the kernels of the convolutions between stages of the synthesis; odd.

    Raises:
        DkicError: a number is out of range, or the strides do not fit.
    """

    analysis: tuple[StageSpec, ...]
    synthesis: tuple[StageSpec, ...]
    slices: tuple[SliceSpec, ...]
    context_channels: int
    quality_points: int = 8
    quality_features: int = 16
    upsampling_kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("analysis", "synthesis"):
            stages = getattr(self, name)
            if not isinstance(stages, tuple) or not 1 <= len(stages) <= _MAX_STAGES:
                raise DkicError(f"{name}: is {stages!r:.40}; give a tuple of 1 to {_MAX_STAGES} stages")
            strides = [stage.stride for stage in stages]
            if prod(strides) != LATENT_STRIDE:
                raise DkicError(f"{name}: the strides are {strides}; give strides whose product is {LATENT_STRIDE}")
            if any(stride != 2 for stride in strides[1:]):
                raise DkicError(f"{name}: the strides are {strides}; give 2 for all stages but the first")
        check_number("context_channels", self.context_channels, 1, MAX_CHANNELS)
        check_number("quality_points", self.quality_points, 2, MAX_POINTS)
        check_number("quality_features", self.quality_features, 1, MAX_CHANNELS)
        check_number("upsampling_kernel", self.upsampling_kernel, 1, 7)
        if self.upsampling_kernel % 2 == 0:
            raise DkicError(f"upsampling_kernel: is {self.upsampling_kernel}; give an odd number")
        check_slices(self.slices)

    @property
    def latent_channels(self) -> int:
        return sum(s.channels for s in self.slices)

    @property
    def hyper_channels(self) -> int:
        """0: there is no hyper-prior."""
        return 0

    @property
    def hyper_features(self) -> int:
        """Channels of the context network's initial features."""
        return self.quality_features

    @property
    def receptive_field(self) -> int:
        """How many pixels around a tile its latent or image depends on, rounded up to a multiple of 16; one for g_a and g_s."""
        analysis, synthesis = (_reach(stages) for stages in (self.analysis, self.synthesis))
        analysis += self.analysis[0].stride // 2 + sum(_positions(self.analysis)[:-1])  # overlap of blocks; 3x3 convolutions
        synthesis += self.synthesis[0].stride + self.upsampling_kernel // 2 * sum(_positions(self.synthesis)[1:])
        return -(-max(analysis, synthesis) // LATENT_STRIDE) * LATENT_STRIDE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VariableRateConfig":
        """The inverse of `to_dict`, also after JSON. Raises DkicError that names unknown and missing keys."""
        values = {"upsampling_kernel": 3} | values  # the first weights files don't have it
        check_keys(cls, values)
        specs = {"analysis": StageSpec, "synthesis": StageSpec, "slices": SliceSpec}
        arguments: dict[str, Any] = {k: tuple(specs[k](**s) for s in v) if k in specs else v for k, v in values.items()}
        return cls(**arguments)


def _positions(stages: tuple[StageSpec, ...]) -> list[int]:
    """Pixels from one position of each stage to the next."""
    return list(accumulate((stage.stride for stage in stages), mul))


def _reach(stages: tuple[StageSpec, ...]) -> int:
    """Pixels that the blocks of all stages reach. LDCN: its taps, an offset of one position, and what predicts the offset."""
    kernels = {"conv": 1, "ldcn": 3}
    return sum(stage.blocks * kernels[stage.kernel] * size for stage, size in zip(stages, _positions(stages), strict=True))
