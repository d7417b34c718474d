"""Variable-rate codec: one network for all rates."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkic.entropy.quantization import Quantizer
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.models.quality_table import QualityFeatures, QualityScale, QuantizerTable
from dkic.models.slice_context import SliceContext
from dkic.models.synthesis import upsample
from dkic.models.variable_rate_config import StageSpec, VariableRateConfig
from dkic.nn.ldcn_block import LDCNBlock, plus_branch

# The unit of the latent is about the finest quantization step; activations in the networks are of the order of 1.
_LATENT_SCALE = 8.0


class ConvBlock(nn.Module):
    """x + project(relu(depthwise(value(x)))): an LDCN block's counterpart with a fixed 3x3 kernel for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return plus_branch(x, self.project(self.depthwise(self.value(x)).relu_()))


class FeedForward(nn.Module):
    """x + contract(relu(expand(x))), twice as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand, self.contract = nn.Conv2d(channels, channels * 2, 1), nn.Conv2d(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return plus_branch(x, self.contract(self.expand(x).relu_()))


def mixing_blocks(stage: StageSpec) -> Iterator[nn.Module]:
    """The blocks of a stage, in pairs: one mixes neighboring positions, the next mixes channels."""
    for _ in range(stage.blocks):
        yield ConvBlock(stage.width) if stage.kernel == "conv" else LDCNBlock(stage.width, stage.groups)
        yield FeedForward(stage.width)


class LappedAnalysis(nn.Module):
    """x `[N, 3, H, W]` -> `[N, channels, H/stride, W/stride]`: of each block of pixels, and half a block around it.

    stride: even; must divide H and W.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.blocks = nn.Conv2d(3 * stride**2, channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        half = self.stride // 2
        return self.blocks(F.pixel_unshuffle(F.pad(x, (half,) * 4), self.stride))


class LappedSynthesis(nn.Module):
    """t `[N, channels, h, w]` -> `[N, 3, stride * h, stride * w]`: each pixel of the four nearest positions.

    Of one position, blocks would have visible edges. stride: even.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.blocks = nn.Conv2d(channels, 3 * stride**2, 2, padding=1)

    def forward(self, t: Tensor) -> Tensor:
        half = self.stride // 2
        return F.pixel_shuffle(self.blocks(t), self.stride)[..., half:-half, half:-half]


class VariableRateAnalysis(nn.Module):
    """x `[N, 3, H, W]` in [0, 1] -> y `[N, M, H/16, W/16]`, the same at all qualities; H and W are multiples of 16."""

    def __init__(self, stages: Sequence[StageSpec], latent_channels: int) -> None:
        super().__init__()
        first = stages[0]
        layers: list[nn.Module] = [LappedAnalysis(first.width, first.stride), *mixing_blocks(first)]
        for before, stage in zip(stages, stages[1:], strict=False):
            layers += [nn.Conv2d(before.width, stage.width, 3, stage.stride, 1), *mixing_blocks(stage)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(stages[-1].width, latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x - 0.5)) * _LATENT_SCALE


class VariableRateSynthesis(nn.Module):
    """y_hat `[N, M, h, w]` and its quality `[N]` -> x_hat `[N, 3, 16h, 16w]`, not clamped to [0, 1]."""

    def __init__(self, config: VariableRateConfig) -> None:
        super().__init__()
        stages, latent_channels, points = config.synthesis, config.latent_channels, config.quality_points
        last = stages[-1]
        self.latent_scale = QualityScale(latent_channels, points)
        self.head = nn.Conv2d(latent_channels, last.width, 1)
        self.stages = nn.ModuleList([nn.Sequential(*mixing_blocks(last))])
        self.upsamplings, self.scales = nn.ModuleList(), nn.ModuleList()
        for before, stage in zip(reversed(stages), list(reversed(stages))[1:], strict=False):
            self.upsamplings.append(upsample(before.width, stage.width, config.upsampling_kernel))
            self.scales.append(QualityScale(stage.width, points))
            self.stages.append(nn.Sequential(*mixing_blocks(stage)))
        first = stages[0]
        self.tail = LappedSynthesis(first.width, first.stride)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        t = self.stages[0](self.head(self.latent_scale(y_hat / _LATENT_SCALE, quality)))
        for up, scale, stage in zip(self.upsamplings, self.scales, list(self.stages)[1:], strict=True):
            t = stage(scale(up(t), quality))
        return self.tail(t) + 0.5


class VariableRateDKIC(CodecNetwork):
    """Codec network for the qualities 1 to 100.

        x -> g_a -> y -> round((y - mean) / size) * size + mean -> y_hat -> g_s -> x_hat
        quality -> features -> context -> mean, scale of y, slice after slice; quality -> size of each channel; quality -> g_s

    The analysis is independent of the quality, so searching for a target rate does not repeat it. There is no hyper-prior: the
    first pass of the first slice depends only on the quality.
    """

    variable_rate = True

    def __init__(self, config: VariableRateConfig) -> None:
        super().__init__()
        self.config = config
        channels, points = config.latent_channels, config.quality_points
        self.g_a = VariableRateAnalysis(config.analysis, channels)
        self.g_s = VariableRateSynthesis(config)
        self.quality_features = QualityFeatures(config.quality_features, points)
        self.quantizer_table = QuantizerTable(channels, points)
        self.context = SliceContext(config, self.quality_features.scale)

    def forward(self, x: Tensor, generator: torch.Generator | None = None, quality: Tensor | None = None) -> TrainingOutput:
        """Training: x `[N, 3, H, W]` in [0, 1], H and W multiples of 32; quality `[N]`, 1 to 100.

        Bits are computed with uniform noise instead of rounding (drawn from `generator`). The decoder's input is rounded; the
        gradient passes straight through.
        """
        latent = self.latent_bits(self.g_a(x), None, quality, generator)
        return TrainingOutput(self.g_s(latent.y_hat, quality), latent.bits, latent.quantized_bits, latent.y_hat)

    def analyze(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def hyper_latent(self, y: Tensor) -> None:
        return None

    def features(self, z_hat: Tensor | None, quality: Tensor | None, size: tuple[int, int]) -> Tensor:
        return self.quality_features(quality)[..., None, None].expand(-1, -1, *size)

    def quantizer(self, quality: Tensor | None) -> Quantizer:
        return self.quantizer_table(quality)

    def synthesize(self, y_hat: Tensor, quality: Tensor | None) -> Tensor:
        return self.g_s(y_hat, quality)

    def transforms(self) -> Iterator[nn.Module]:
        yield from (self.g_a, self.g_s)

    def entropy_networks(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("quality_features", "quantizer_table", "context")}
