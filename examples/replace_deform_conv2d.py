"""Replaces torchvision's deformable convolutions in an existing model, and compares results and time.

python examples/replace_deform_conv2d.py [--channels 128] [--side 64]
"""

import argparse
import copy
from time import perf_counter

import torch
import torchvision
from torch import Tensor, nn

from dkic.nn import convert


class Block(nn.Module):
    """A DCNv2 layer on torchvision."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset_mask = nn.Conv2d(channels, 27, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset_mask(x).split([18, 9], dim=1)
        return self.conv(x, offset, mask.sigmoid())


def seconds(model: nn.Module, x: Tensor) -> float:
    """Best of three times of forward and backward."""
    times = []
    for _ in range(3):
        start = perf_counter()
        model(x).square().mean().backward()
        times.append(perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    original = nn.Sequential(Block(arguments.channels), nn.ReLU(), Block(arguments.channels))
    model = convert(copy.deepcopy(original)).to(memory_format=torch.channels_last)
    x = torch.randn(1, arguments.channels, arguments.side, arguments.side)
    y = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(y), original(x), rtol=1e-3, atol=1e-3)
    print("results agree")
    before, after = seconds(original, x), seconds(model, y)
    print(f"forward + backward: torchvision {before * 1e3:.1f} ms, dkic {after * 1e3:.1f} ms ({before / after:.1f}x)")


if __name__ == "__main__":
    main()
