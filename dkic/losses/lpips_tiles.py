"""LPIPS of large images in tiles: the value of the whole image up to float rounding, in bounded memory.

Each tile computes its own positions of every compared map, from the tile and its receptive field: up to 81 pixels around the tile
for "alex", 90 for "vgg". Zero padding is applied only at the borders of the image, so features equal those of the whole
image, and so do the maps' means.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import ceil
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkic.losses.lpips import LPIPS
from dkic.losses.lpips_backbone import Backbone

# In pixels. The last map has a position for every 16, and ends up to 30 before the image: of a smaller tile it might have none.
LEAST_TILE = 64


class _Input(NamedTuple):
    """A layer's, along an axis: what it takes of that which the layer before left, and the zeros before and after it."""

    taken: slice
    before: int
    after: int


class _Band(NamedTuple):
    """A tile along an axis: the `pixels` that it sees; each layer's input; its own of what each compared layer leaves."""

    pixels: slice
    inputs: list[_Input]
    own: list[slice]


@torch.inference_mode()
def lpips_in_tiles(network: LPIPS, x: Tensor, x_hat: Tensor, tile: int) -> Tensor:
    """LPIPS `[N]` of uint8 `[N, 3, H, W]`, sides at least `network.backbone.least_side`.

    Args:
        tile: most pixels along a side of a tile, but for up to 16 more; at least 64.
    """
    if tile < LEAST_TILE:
        raise ValueError(f"tile must be at least {LEAST_TILE}, not {tile}")
    rows, columns = (list(_bands(network.backbone, side, tile)) for side in x.shape[2:])
    tiles = [(row, column) for row in rows for column in columns]
    distances = []
    for pair in zip(x, x_hat, strict=True):
        maps = [_of_tile(network, pair, *tile) for tile in tiles]  # sum and positions of each
        sums, positions = torch.tensor(maps, dtype=torch.float64, device="cpu").sum(0).unbind(1)
        distances.append((sums / positions).sum())
    return torch.stack(distances).to(x.device, torch.float32)


def _of_tile(network: LPIPS, pair: tuple[Tensor, Tensor], row: _Band, column: _Band) -> list[tuple[float, int]]:
    """The tile's own of each map of distances: their sum, and how many they are. pair: `[3, H, W]` each."""
    pixels = torch.stack([image[:, row.pixels, column.pixels] for image in pair])
    x = network.normalised(pixels.float() / 255)
    found: list[tuple[float, int]] = []
    for i, layer in enumerate(network.backbone):
        x = _applied(layer, x, row.inputs[i], column.inputs[i])
        if i in network.backbone.compared:
            at = len(found)
            own = network.distances(at, *x[:, :, row.own[at], column.own[at]].split(1))
            found.append((own.sum(dtype=torch.float64).item(), own.numel()))
    return found


def _applied(layer: nn.Module, x: Tensor, rows: _Input, columns: _Input) -> Tensor:
    x = x[:, :, rows.taken, columns.taken]
    if not isinstance(layer, nn.Conv2d):
        return layer(x)  # it has no padding
    return F.conv2d(F.pad(x, (columns.before, columns.after, rows.before, rows.after)), layer.weight, layer.bias, layer.stride)


def _bands(backbone: Backbone, side: int, tile: int) -> Iterator[_Band]:
    """The tiles along an axis of `side` pixels."""
    geometry = [_geometry(layer) for layer in backbone]
    sizes = [side]  # of what each layer is given, then of what the last one leaves
    for kernel, step, padding in geometry:
        sizes.append((sizes[-1] + 2 * padding - kernel) // step + 1)
    scales = list(accumulate((step for _, step, _ in geometry), mul))  # pixels to a position of what each leaves
    count = ceil(side / tile)
    edges = [side * i // count // scales[-1] * scales[-1] for i in range(count)] + [side]
    for begin, end in pairwise(edges):
        own = {i: (begin // scales[i], sizes[i + 1] if end == side else end // scales[i]) for i in backbone.compared}
        # From the last layer, which is compared, to the first: what it leaves, and what for that it is given.
        leaves, given, span = {}, {}, own[len(geometry) - 1]
        for i in reversed(range(len(geometry))):
            kernel, step, padding = geometry[i]
            if i in own:
                span = min(span[0], own[i][0]), max(span[1], own[i][1])
            leaves[i] = span
            sees = span[0] * step - padding, (span[1] - 1) * step - padding + kernel
            span = max(sees[0], 0), min(sees[1], sizes[i])
            given[i] = span, span[0] - sees[0], sees[1] - span[1]
        leaves[-1] = span  # the image
        inputs = [_Input(_within(leaves[i - 1], given[i][0]), *given[i][1:]) for i in range(len(geometry))]
        yield _Band(slice(*span), inputs, [_within(leaves[i], own[i]) for i in backbone.compared])


def _geometry(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel, step and padding, the same along both axes."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    return (layer.kernel_size, layer.stride, 0) if isinstance(layer, nn.MaxPool2d) else (1, 1, 0)  # type: ignore[return-value]


def _within(whole: tuple[int, int], part: tuple[int, int]) -> slice:
    return slice(part[0] - whole[0], part[1] - whole[0])
