"""Dynamic residual block group: residual bottlenecks, an LDCN block, a 3x3 convolution, and a skip over all of it."""

from torch import Tensor, nn

from dkic.nn.ldcn_block import LDCNBlock, plus_branch


class ResidualBottleneck(nn.Module):
    """x + 1x1(relu(3x3(relu(1x1(x))))), half as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return plus_branch(x, self.body(x))


class DRBG(nn.Module):
    """Dynamic residual block group of the paper: x `[N, C, H, W]` -> the same shape.

    Args:
        channels: C.
        groups: LDCN groups; must divide channels.
        bottlenecks: number of residual bottlenecks before the LDCN block.
    """

    def __init__(self, channels: int, groups: int, bottlenecks: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(ResidualBottleneck(channels) for _ in range(bottlenecks)),
            LDCNBlock(channels, groups, mask="sigmoid", relu=False),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return plus_branch(x, self.body(x))
