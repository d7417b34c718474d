"""What a program of deform_conv2d's Triton kernels does at a time."""

from dataclasses import dataclass

import triton


@dataclass(frozen=True)
class Tiles:
    """A program's output pixels, outputs (at most) and channels, its warps, and of how many rounds loads are in flight."""

    pixels: int
    outputs: int
    channels: int
    warps: int
    stages: int = 1


DEFAULTS = {
    "forward": Tiles(64, 192, 32, 4),
    "samples": Tiles(64, 64, 32, 4, 2),
    "weight": Tiles(32, 192, 32, 4, 2),
    "columns": Tiles(64, 0, 32, 4),
    "column samples": Tiles(64, 0, 32, 4),
}


def output_blocks(outputs: int, most: int) -> tuple[int, int]:
    """Two powers of 2, the second of them maybe 0, for as many programs as hold all outputs with `most` each: 192 is 128 + 64.

    None is below 16, as the tensor cores take them.
    """
    each = triton.cdiv(triton.cdiv(outputs, triton.cdiv(outputs, most)), 16) * 16
    first = 1 << (each.bit_length() - 1)
    rest = triton.next_power_of_2(each - first) if each > first else 0
    return (first, rest) if rest < first else (2 * first, 0)


def channel_block(channels: int, most: int, least: int = 1) -> int:
    """A power of 2, no larger than holds all channels."""
    return max(min(triton.next_power_of_2(channels), most), least)
