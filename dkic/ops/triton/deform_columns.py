"""im2col path of deform_conv2d: Triton kernels write the samples of a block of output pixels to columns, cuBLAS multiplies them.

Used for float32 and float64, and for half precision if the tiles of the fused kernels would be mostly empty. The matrix products
use TF32 if `torch.backends.cuda.matmul.allow_tf32` is set.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dkic.ops.triton import deform_columns_kernels as kernels
from dkic.ops.triton.deform_problem import Problem
from dkic.ops.triton.grid import cdiv
from dkic.ops.triton.image_sums import ImageSums
from dkic.ops.triton.tiles import Tiles, channel_block, choose

# Bytes of the columns of a block. For the codec's shape (6,912 bytes per pixel) a block has 5,504 pixels, a third of them: each
# multiprocessor of an H100 gets an output tile of 128 x 64, and the columns stay in the 50 MB L2 cache until they are read.
WORKSPACE = 40_000_000
PROGRAMS = 1024  # with fewer programs, each program computes one tap only
MOST_ODD = 16  # channels per program without vectorized loads, where each channel needs an address
ROWS = 128  # the pixels of a block are a multiple


@dataclass(frozen=True)
class Block:
    """Output pixels [first, end) and their columns, `[pixels, weight groups, taps * depth]`."""

    first: int
    end: int
    columns: Tensor

    @property
    def by_group(self) -> Tensor:
        return self.columns.transpose(0, 1)

    def rows(self, outputs: Tensor) -> Tensor:
        """The block's rows of outputs `[pixels, weight groups, outputs per group]`, transposed to group-major."""
        return outputs[self.first : self.end].transpose(0, 1)


def block_size(p: Problem, dtype: torch.dtype) -> int:
    """Output pixels per block, for columns of a dtype."""
    most = max(WORKSPACE // (p.x.shape[1] * p.taps * dtype.itemsize) // ROWS * ROWS, ROWS)
    size = cdiv(cdiv(p.pixels, max(cdiv(p.pixels, most), 1)), ROWS) * ROWS
    return min(size, p.pixels)


def blocks(p: Problem, dtype: torch.dtype) -> Iterator[Block]:
    """Yields the blocks of all output pixels, of equal size. All blocks share one buffer."""
    size = block_size(p, dtype)
    columns = p.x.new_empty((size, p.weight_groups, p.taps * p.depth), dtype=dtype)
    for first in range(0, p.pixels, size):
        end = min(first + size, p.pixels)
        yield Block(first, end, columns[: end - first])


def launch(kernel, tiles: Tiles, p: Problem, block: Block, *tensors, types: dict) -> None:
    programs = cdiv(block.end - block.first, tiles.pixels) * p.groups
    tap_count = p.taps if programs >= PROGRAMS else 1
    kernel[(programs * cdiv(p.taps, tap_count),)](
        p.arguments,
        *tensors,
        block.first,
        block.end,
        p.groups,
        tap_count,
        DEPTH=p.depth,
        GROUP_DEPTH=p.group_depth,
        BLOCK_P=tiles.pixels,
        BLOCK_C=channel_block(p.group_depth, min(tiles.channels, MOST_ODD if p.group_depth % 4 else tiles.channels)),
        num_warps=tiles.warps,
        **types,
    )


def forward(p: Problem, bias: Tensor | None, y: Tensor) -> None:
    """Writes y, contiguous NHWC."""
    weight = p.rows_of_weight(p.depth).view(p.weight_groups, p.group_outputs, -1).transpose(1, 2)
    outputs = y.permute(0, 2, 3, 1).view(p.pixels, p.weight_groups, p.group_outputs)
    tiles = choose("columns", p).tiles
    for block in blocks(p, p.x.dtype):
        launch(kernels.write_columns, tiles, p, block, block.columns, types=p.types(y, block.columns))
        if bias is None:
            torch.bmm(block.by_group, weight, out=block.rows(outputs))
        else:
            bias_rows = bias.view(p.weight_groups, 1, p.group_outputs)
            torch.baddbmm(bias_rows, block.by_group, weight, out=block.rows(outputs))


def backward(
    p: Problem, grad_y: Tensor, grad_offset: Tensor | None, grad_mask: Tensor | None, sums: ImageSums | None, need_weight: bool
) -> Tensor | None:
    """Writes grad_offset, grad_mask and sums unless they are None; returns the gradient of weight if needed.

    Columns have `p.sum_dtype`, so that only results are rounded to half precision. Blocks are accumulated in a fixed order.
    """
    weight = p.rows_of_weight(p.depth).to(p.sum_dtype).view(p.weight_groups, p.group_outputs, -1)
    grad_weight = torch.empty_like(weight) if need_weight else None
    grad_outputs = grad_y.permute(0, 2, 3, 1).reshape(p.pixels, p.weight_groups, p.group_outputs)
    need_samples = not (sums is None and grad_offset is None and grad_mask is None)
    column_tiles = choose("columns", p).tiles
    sample_tiles = choose("column samples", p, sums is not None and sums.powers is not None).tiles
    for block in blocks(p, p.sum_dtype):
        types = p.types(grad_y, block.columns, *([] if sums is None else [sums.sums]))
        rows = block.rows(grad_outputs).to(p.sum_dtype)
        if need_samples:
            torch.bmm(rows, weight, out=block.by_group)
            to = None if sums is None else sums.arguments
            gradients = to, grad_offset, grad_mask
            launch(kernels.backward_samples, sample_tiles, p, block, block.columns, *gradients, types=types)
        if grad_weight is not None:
            launch(kernels.write_columns, column_tiles, p, block, block.columns, types=types)
            before = float(block.first > 0)
            torch.baddbmm(grad_weight, rows.transpose(1, 2), block.by_group, beta=before, out=grad_weight)
    if grad_weight is None:
        return None
    return p.from_rows(grad_weight.view(p.outputs, 1, p.taps, p.depth))
