"""g_a: image to latent, in four stages that halve the size."""

from torch import nn

from dkic.models.config import ModelConfig
from dkic.models.drbg import DRBG


class Analysis(nn.Sequential):
    """x `[N, 3, H, W]` in [0, 1] -> y `[N, M, H/16, W/16]`; H and W are multiples of 16."""

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = []
        before = 3
        for width, groups, bottlenecks in zip(config.widths, config.groups, config.bottlenecks, strict=True):
            kernel = 5 if before == 3 else 3
            layers += [nn.Conv2d(before, width, kernel, 2, kernel // 2), DRBG(width, groups, bottlenecks)]
            before = width
        super().__init__(*layers, nn.Conv2d(before, config.latent_channels, 3, 2, 1))
