"""deform_conv2d by columns: Triton kernels write the samples of a block of output pixels, and torch multiplies them (cuBLAS).

Serves float32 and float64 in all shapes, and half precision where the fused kernels' tiles would be mostly empty. Products are
torch's own: TF32 where `torch.backends.cuda.matmul.allow_tf32` is set.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from dkic.ops.triton import deform_columns_kernels as kernels
from dkic.ops.triton.deform_problem import Problem
from dkic.ops.triton.image_sums import ImageSums
from dkic.ops.triton.tiles import Tiles, channel_block, choose

# Bytes of a block's columns. Of the codec's shape, 6,912 bytes a pixel, a third: 5,504 pixels give each multiprocessor of an H100
# an output tile of 128 x 64, and its L2 of 50 MB still holds the columns when they are read.
WORKSPACE = 40_000_000
PROGRAMS = 1024  # below so many, each tap has programs of its own
MOST_ODD = 16  # channels of a program where they are not loaded as vectors: each has an address
ROWS = 128  # a block's pixels are a multiple of it


@dataclass(frozen=True)
class Block:
    """Output pixels [first, end), whose columns are `[pixels, weight groups, taps * depth]`."""

    first: int
    end: int
    columns: Tensor

    @property
    def by_group(self) -> Tensor:
        return self.columns.transpose(0, 1)

    def rows(self, outputs: Tensor) -> Tensor:
        """Of outputs, `[pixels, weight groups, outputs of each]`, those of the block by group."""
        return outputs[self.first : self.end].transpose(0, 1)


def block_size(p: Problem, dtype: torch.dtype) -> int:
    """Output pixels of a block, in the dtype of its columns."""
    most = max(WORKSPACE // (p.x.shape[1] * p.taps * dtype.itemsize) // ROWS * ROWS, ROWS)
    size = triton.cdiv(triton.cdiv(p.pixels, max(triton.cdiv(p.pixels, most), 1)), ROWS) * ROWS
    return min(size, p.pixels)


def blocks(p: Problem, dtype: torch.dtype) -> Iterator[Block]:
    """The blocks of all output pixels, of equal sizes; each uses the memory of the one before."""
    size = block_size(p, dtype)
    columns = p.x.new_empty((size, p.weight_groups, p.taps * p.depth), dtype=dtype)
    for first in range(0, p.pixels, size):
        end = min(first + size, p.pixels)
        yield Block(first, end, columns[: end - first])


def launch(kernel, tiles: Tiles, p: Problem, block: Block, *tensors, types: dict) -> None:
    programs = triton.cdiv(block.end - block.first, tiles.pixels) * p.groups
    tap_count = p.taps if programs >= PROGRAMS else 1
    kernel[(programs * triton.cdiv(p.taps, tap_count),)](
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
    """Fills y, which is NHWC without gaps."""
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
    """Fills grad_offset, grad_mask and sums where they are not None; returns the gradient of weight, if wanted.

    Columns are of `p.sum_dtype`, so that nothing but results is rounded to half precision. Blocks are added one after the other:
    the same every time.
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
