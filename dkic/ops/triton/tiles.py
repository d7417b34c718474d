"""Tile sizes of deform_conv2d's Triton kernels: defaults by compute capability, and autotuned sizes.

Tuned tiles are stored in `deform_conv2d_tiles.json` in dkic's cache folder. Only `tune` measures.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from triton.runtime.errors import OutOfResources

from dkic.cache import cache_folder
from dkic.errors import DkicError
from dkic.ops.triton.deform_problem import Problem
from dkic.ops.triton.grid import cdiv, next_power_of_2


@dataclass(frozen=True)
class Tiles:
    """Output pixels, outputs (at most) and channels per program, its warps, and the pipeline stages of the weight loads."""

    pixels: int
    outputs: int
    channels: int
    warps: int
    stages: int = 1


# By kernel and major compute capability. None spills on 8.6 or 9.0 (tests/ops/test_deform_conv2d_compile.py). "forward", "weight"
# and "samples" are the fused half-precision kernels; the others belong to the im2col path.
DEFAULTS = {
    "forward": {8: Tiles(64, 192, 16, 4), 9: Tiles(64, 192, 32, 4)},
    "samples": {8: Tiles(64, 64, 32, 4, 2)},
    "weight": {8: Tiles(32, 192, 32, 4, 2)},
    "columns": {8: Tiles(32, 0, 32, 4)},
    "column samples": {8: Tiles(16, 0, 32, 4)},
}
# For more registers per thread: the gradient of input is accumulated in integers, or element indexes have 64 bits.
SMALLER = {"samples": Tiles(32, 64, 32, 8, 2)}

# Tiles that `tune` measures in addition to the default.
CANDIDATES = {
    "forward": [
        Tiles(32, 192, 32, 4),
        Tiles(64, 192, 16, 4),
        Tiles(64, 192, 16, 4, 3),
        Tiles(64, 192, 32, 4),
        Tiles(128, 192, 32, 8),
    ],
    "samples": [Tiles(32, 64, 32, 4, 2), Tiles(64, 64, 32, 4), Tiles(64, 128, 32, 8, 2)],
    "weight": [Tiles(32, 192, 32, 4), Tiles(32, 192, 32, 4, 3), Tiles(64, 192, 32, 4, 2), Tiles(32, 192, 64, 8, 2)],
    "columns": [Tiles(16, 0, 32, 1), Tiles(32, 0, 32, 2), Tiles(32, 0, 64, 4), Tiles(64, 0, 32, 4), Tiles(128, 0, 32, 8)],
    "column samples": [Tiles(16, 0, 32, 1), Tiles(16, 0, 32, 2), Tiles(32, 0, 32, 4), Tiles(64, 0, 32, 8)],
}


@dataclass(frozen=True)
class Choice:
    """The tiles of a kernel and where they come from."""

    tiles: Tiles
    origin: str


def choose(kernel: str, p: Problem, smaller: bool = False) -> Choice:
    """The tiles of a kernel for a problem. smaller: use SMALLER, which is not tuned."""
    if smaller and kernel in SMALLER:
        return Choice(SMALLER[kernel], "default for integer sums or 64-bit numbers")
    table = tuned()
    if table and (found := table.get(key(kernel, p))):  # key() takes a few microseconds
        return Choice(found, "tuned")
    major = capability(p.x.device)[0]
    defaults = DEFAULTS[kernel]
    known = max((number for number in defaults if number <= major), default=min(defaults))
    return Choice(defaults[known], "default")


def tune(p: Problem, kernels: tuple[str, ...], seconds: Callable[[str], float]) -> dict[str, Tiles]:
    """Measures the default and the candidates of each kernel for the key of this problem, and stores the fastest.

    Args:
        seconds: measures a call that launches the named kernel with the tiles from `choose`. Candidates that exceed the shared
            memory or registers of the GPU are skipped.
    """
    table, fastest = tuned(), {}
    for kernel in kernels:
        place = key(kernel, p)
        table.pop(place, None)
        times = {}
        for tiles in dict.fromkeys([choose(kernel, p).tiles, *CANDIDATES[kernel]]):
            table[place] = tiles
            try:
                times[tiles] = seconds(kernel)
            except OutOfResources:
                continue
            finally:
                del table[place]
        table[place] = fastest[kernel] = min(times, key=times.__getitem__)
    path = tiles_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({place: asdict(tiles) for place, tiles in table.items()}, indent=1))
    return fastest


@cache
def tuned() -> dict[str, Tiles]:
    """Tuned tiles by `key`, read once from the cache folder. DkicError: the file is damaged."""
    path = tiles_file()
    try:
        return {place: Tiles(**fields) for place, fields in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise DkicError(f"{path}: not a table of tiles ({error}); delete it") from None


def tiles_file() -> Path:
    return cache_folder() / "deform_conv2d_tiles.json"


def key(kernel: str, p: Problem) -> str:
    """Key of the problems that share tiles: GPU, dtype, channels, outputs, taps, and the number of pixels as a power of 2."""
    gpu = torch.cuda.get_device_name(p.x.device) if p.x.is_cuda else "interpreter"
    shape = f"{p.depth}x{p.weight_groups} to {p.group_outputs}, groups of {p.group_depth}, {p.taps} taps"
    return f"{gpu}, {kernel}, {str(p.x.dtype)[6:]}, {shape}, 2^{round(math.log2(max(p.pixels, 1)))} pixels"


def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def output_blocks(outputs: int, most: int) -> tuple[int, int]:
    """Block sizes (BLOCK_O, REST_O), powers of 2 or 0 for REST_O, for the fewest programs with at most `most` outputs each.

    For example, 192 = 128 + 64. Sizes are at least 16, the minimum of the tensor cores.
    """
    each = cdiv(cdiv(outputs, cdiv(outputs, most)), 16) * 16
    first = 1 << (each.bit_length() - 1)
    rest = next_power_of_2(each - first) if each > first else 0
    return (first, rest) if rest < first else (2 * first, 0)


def channel_block(channels: int, most: int, least: int = 1) -> int:
    """The smallest power of 2 >= channels, clamped to [least, most]."""
    return max(min(next_power_of_2(channels), most), least)
