"""Distance of low-frequency colors, to which perceptual networks are insensitive."""

from torch import Tensor
from torch.nn import functional as F

SIDES = (4, 8, 16)


def color_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of the averages of 4x4, 8x8 and 16x16 pixels: `[N]`, differentiable in both.

    Args:
        x, x_hat: `[N, 3, H, W]`, of one shape, sides of at least 16.
    """
    difference = x - x_hat
    distances = [F.avg_pool2d(difference, side).abs().mean((1, 2, 3)) for side in SIDES]
    return sum(distances[1:], distances[0]) / len(SIDES)
