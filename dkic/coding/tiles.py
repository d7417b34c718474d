"""Large images tile by tile: the memory of a transform is that of a tile.

A tile is transformed with a margin around it, which is cut off afterwards. Where the margin is wider than what a pixel depends
on, the result is that of the whole image to within rounding. The latent is whole in either case, and so is its coding: tiles
are not part of the file format, and a decoder need not know how the encoder cut.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

# Images of more pixels are cut where nothing else is asked for. A whole 2048x2048 takes `tiny` 1.9 GB in all.
AUTOMATIC_ABOVE = 4_000_000
AUTOMATIC_TILE = 1024
# In pixels. g_a and g_s of `tiny` reach about 90, and further by as much as their kernels are displaced. At 192 as many pixels of
# five images differ from the whole ones' as at 128: 3 in 100,000, by one level.
MARGIN = 128


def tile_side(height: int, width: int, tile: int | None) -> int:
    """Side of the tiles in pixels, for an image of that size; 0 where it is not cut. tile: as asked for, None for automatic."""
    if tile is None:
        tile = AUTOMATIC_TILE if height * width > AUTOMATIC_ABOVE else 0
    return tile if height > tile or width > tile else 0


def tiled(
    transform: Callable[[Tensor], Tensor], t: Tensor, tile: int, margin: int, write: Callable[[Tensor, int, int], None]
) -> None:
    """Calls write(result, top, left) for every tile of t `[1, C, H, W]`, in order.

    Args:
        transform: from `[1, C, h, w]` to `[1, D, h * s, w * s]`, for some s.
        tile, margin: in t's pixels; tile 0 is the whole of t. Both are multiples of 1 / s where s is below 1.
        write: gets a tile's result without its margin, and where it begins, in the result's pixels.
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
    """Of each tile along an axis: begin and end, without margins and with them."""
    for begin in range(0, length, tile or length):
        end = min(begin + (tile or length), length)
        yield begin, end, max(begin - margin, 0), min(end + margin, length)
