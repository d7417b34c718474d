"""g_s: latent to image, in four stages that double the size."""

from torch import nn

from dkic.models.config import ModelConfig
from dkic.models.drbg import DRBG


def upsample(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    """`[N, before, h, w]` -> `[N, after, 2h, 2w]`: a convolution and pixel shuffle, which avoids checkerboard artifacts."""
    return nn.Sequential(nn.Conv2d(before, after * 4, kernel, padding=kernel // 2), nn.PixelShuffle(2))


class Synthesis(nn.Sequential):
    """y_hat `[N, M, h, w]` -> x_hat `[N, 3, 16h, 16w]`, not clamped to [0, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = []
        before = config.latent_channels
        stages = list(zip(config.widths, config.groups, config.bottlenecks, strict=True))
        for width, groups, bottlenecks in reversed(stages):
            layers += [upsample(before, width), DRBG(width, groups, bottlenecks)]
            before = width
        super().__init__(*layers, upsample(before, 3))
