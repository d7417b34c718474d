"""Transforms large images in tiles, to bound memory.

A tile is transformed with a margin, which is then cropped. With a margin wider than the receptive field, the result equals that
of the whole image up to rounding. The latent is not divided: tiles are not part of the file format, and a decoder is independent
of the encoder's tiles.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

# Default number of pixels above which tiles are used. The preset `tiny` takes 1.9 GB for a whole 2048x2048 image.
AUTOMATIC_ABOVE = 4_000_000
AUTOMATIC_TILE = 1024


def tile_side(height: int, width: int, tile: int | None) -> int:
    """Side of the tiles in pixels for an image of this size; 0 for no tiles. tile: the requested side, None for automatic."""
    if tile is None:
        tile = AUTOMATIC_TILE if height * width > AUTOMATIC_ABOVE else 0
    return tile if height > tile or width > tile else 0


def tiled(
    transform: Callable[[Tensor], Tensor], t: Tensor, tile: int, margin: int, write: Callable[[Tensor, int, int], None]
) -> None:
    """Transforms t `[1, C, H, W]` tile by tile and calls write(result, top, left) for each tile, in order.

    Args:
        transform: from `[1, C, h, w]` to `[1, D, h * s, w * s]`, for some s.
        tile, margin: in pixels of t; tile 0: all of t at once. Multiples of 1 / s if s is below 1.
        write: receives the result of a tile without its margin, and its position in the output.
    """
    height, width = t.shape[-2:]
    for top, bottom, above, below in _spans(height, tile, margin):
        for left, right, before, after in _spans(width, tile, margin):
            result = transform(t[..., above:below, before:after])

            def scaled(length: int, result: Tensor = result, whole: int = below - above) -> int:
                return length * result.shape[-2] // whole

            cut = result[..., scaled(top - above) : scaled(bottom - above), scaled(left - before) : scaled(right - before)]
            write(cut, scaled(top), scaled(left))


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of each tile along an axis, without margins and with them."""
    for begin in range(0, length, tile or length):
        end = min(begin + (tile or length), length)
        yield begin, end, max(begin - margin, 0), min(end + margin, length)
