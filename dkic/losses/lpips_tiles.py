"""LPIPS of large images in tiles: the value of the whole image up to float rounding, in bounded memory.

Each tile owns some positions of every compared feature map. It computes them from its pixels and their receptive field: up to 81
pixels around the tile for "alex", 90 for "vgg". Zero padding is applied only at the borders of the image, so features equal
those of the whole image, and so do the means over the maps.
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

# Pixels. The last map has a position for every 16 pixels and ends up to 30 pixels before the image, so a smaller tile might own
# none of its positions.
MIN_TILE = 64


class _Input(NamedTuple):
    """Input of a layer along one axis.

    part: of the previous layer's output. before, after: zero padding at the two ends.
    """

    part: slice
    before: int
    after: int


class Band(NamedTuple):
    """A tile along one axis.

    pixels: of the image, with the receptive field. inputs: of each layer. own: the positions that the tile owns, in its part of
    each compared feature map.
    """

    pixels: slice
    inputs: list[_Input]
    own: list[slice]


@torch.inference_mode()
def lpips_in_tiles(network: LPIPS, x: Tensor, x_hat: Tensor, tile: int) -> Tensor:
    """LPIPS `[N]` of uint8 images `[N, 3, H, W]`; without gradients.

    Args:
        network: the network, which decides the shortest side of an image (`network.backbone.min_side`).
        x, x_hat: images of one shape.
        tile: side of a tile in pixels, at least 64; tiles may be up to 16 pixels longer.

    Raises:
        ValueError: tile is below 64.
    """
    if tile < MIN_TILE:
        raise ValueError(f"lpips_in_tiles/tile: is {tile}; give at least {MIN_TILE}")
    rows, columns = (list(bands(network.backbone, side, tile)) for side in x.shape[2:])
    tiles = [(row, column) for row in rows for column in columns]
    distances = []
    for pair in zip(x, x_hat, strict=True):
        maps = [_of_tile(network, pair, *tile_bands) for tile_bands in tiles]
        sums, positions = torch.tensor(maps, dtype=torch.float64, device="cpu").sum(0).unbind(1)
        distances.append((sums / positions).sum())
    return torch.stack(distances).to(x.device, torch.float32)


def _of_tile(network: LPIPS, pair: tuple[Tensor, Tensor], row: Band, column: Band) -> list[tuple[float, int]]:
    """Sum and number of the distances that a tile owns, for each compared feature map. pair: images `[3, H, W]`."""
    pixels = torch.stack([image[:, row.pixels, column.pixels] for image in pair])
    x = network.normalized(pixels.float() / 255)
    found: list[tuple[float, int]] = []
    for i, layer in enumerate(network.backbone):
        x = _applied(layer, x, row.inputs[i], column.inputs[i])
        if i in network.backbone.compared:
            at = len(found)
            own = network.distances(at, *x[:, :, row.own[at], column.own[at]].split(1))
            found.append((own.sum(dtype=torch.float64).item(), own.numel()))
    return found


def _applied(layer: nn.Module, x: Tensor, rows: _Input, columns: _Input) -> Tensor:
    x = x[:, :, rows.part, columns.part]
    if not isinstance(layer, nn.Conv2d):
        return layer(x)  # no other layer has padding
    return F.conv2d(F.pad(x, (columns.before, columns.after, rows.before, rows.after)), layer.weight, layer.bias, layer.stride)


def bands(backbone: Backbone, side: int, tile: int) -> Iterator[Band]:
    """The tiles along an axis of `side` pixels."""
    geometry = [_geometry(layer) for layer in backbone]
    sizes = [side]  # of the image, then of each layer's output
    for kernel, stride, padding in geometry:
        sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
    scales = list(accumulate((stride for _, stride, _ in geometry), mul))  # pixels per position of each layer's output
    count = ceil(side / tile)
    edges = [side * i // count // scales[-1] * scales[-1] for i in range(count)] + [side]
    for begin, end in pairwise(edges):
        own = {i: (begin // scales[i], sizes[i + 1] if end == side else end // scales[i]) for i in backbone.compared}
        # From the last layer, which is compared, to the first: the span of its output that is needed, and of its input.
        outputs, needed, span = {}, {}, own[len(geometry) - 1]
        for i in reversed(range(len(geometry))):
            kernel, stride, padding = geometry[i]
            if i in own:
                span = min(span[0], own[i][0]), max(span[1], own[i][1])
            outputs[i] = span
            padded = span[0] * stride - padding, (span[1] - 1) * stride - padding + kernel
            span = max(padded[0], 0), min(padded[1], sizes[i])
            needed[i] = span, span[0] - padded[0], padded[1] - span[1]
        outputs[-1] = span  # the image
        inputs = [_Input(_within(outputs[i - 1], needed[i][0]), *needed[i][1:]) for i in range(len(geometry))]
        yield Band(slice(*span), inputs, [_within(outputs[i], own[i]) for i in backbone.compared])


def _geometry(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel size, stride and padding, which are the same along both axes."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    return (layer.kernel_size, layer.stride, 0) if isinstance(layer, nn.MaxPool2d) else (1, 1, 0)  # type: ignore[return-value]


def _within(whole: tuple[int, int], part: tuple[int, int]) -> slice:
    return slice(part[0] - whole[0], part[1] - whole[0])
