"""Presets: `tiny` and `paper` have a network for each quality; `small` and `base` are one network for all rates."""

from typing import Any

from dkic.models.codec_network import CodecNetwork
from dkic.models.config import ModelConfig, SliceSpec
from dkic.models.dkic import DKIC
from dkic.models.variable_rate import VariableRateDKIC
from dkic.models.variable_rate_config import StageSpec, VariableRateConfig

Config = ModelConfig | VariableRateConfig


def config_of(values: dict[str, Any]) -> Config:
    """The config of a `to_dict` result, also after JSON. Raises DkicError that names unknown and missing keys."""
    kind = VariableRateConfig if "quality_points" in values else ModelConfig
    return kind.from_dict(values)


def network_of(config: Config) -> CodecNetwork:
    """A network of this shape, untrained."""
    return VariableRateDKIC(config) if isinstance(config, VariableRateConfig) else DKIC(config)


_SLICES = (SliceSpec(8, 4), SliceSpec(8, 4), SliceSpec(16, 2), SliceSpec(32, 2), SliceSpec(64, 1))
_WIDE_SLICES = (SliceSpec(16, 4), SliceSpec(16, 4), SliceSpec(32, 2), SliceSpec(64, 2), SliceSpec(192, 1))
PRESETS: dict[str, Config] = {
    # For the CPU: at most 3.2 M parameters, and 40 kMAC per pixel for encoding and for decoding. Most of the computation is at
    # 1/8 of the image's size and below, where a channel costs least; memory traffic limits the width at 1/2.
    "tiny": ModelConfig(
        widths=(24, 48, 96),
        groups=(1, 3, 6),
        bottlenecks=(1, 2, 3),
        slices=_SLICES,
        hyper_channels=64,
        hyper_groups=4,
        hyper_features=128,
        context_channels=96,
    ),
    # The paper's architecture, for a GPU: 483 kMAC per pixel for encoding and decoding together; ELIC needs 574.
    "paper": ModelConfig(
        widths=(128, 192, 256),
        groups=(8, 12, 16),
        bottlenecks=(3, 3, 3),
        slices=_WIDE_SLICES,
        hyper_channels=192,
        hyper_groups=12,
        hyper_features=320,
        context_channels=256,
    ),
    # One network for all rates, for the CPU: at most 25 kMAC per pixel for encoding and 40 for decoding.
    "small": VariableRateConfig(
        analysis=(StageSpec(8, 192, 5, "conv"), StageSpec(2, 192, 1, "conv")),
        synthesis=(StageSpec(8, 192, 9, "conv"), StageSpec(2, 256, 1, "conv")),
        slices=_SLICES,
        context_channels=96,
        upsampling_kernel=1,
    ),
    # `small`'s choices for a GPU: 562 kMAC per pixel for encoding and decoding together; ELIC needs 574.
    "base": VariableRateConfig(
        analysis=(StageSpec(8, 384, 12, "conv"), StageSpec(2, 512, 5, "conv")),
        synthesis=(StageSpec(8, 448, 16, "conv"), StageSpec(2, 512, 5, "conv")),
        slices=_WIDE_SLICES,
        context_channels=192,
        upsampling_kernel=1,
    ),
}
