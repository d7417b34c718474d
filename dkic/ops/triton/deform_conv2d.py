"""dkic::deform_conv2d and its backward on a GPU. `forward` and `backward` have the schemas of dkic/ops/schemas.py.

In half precision, fused kernels compute samples, round them once and multiply them on the tensor cores with float32 accumulation.
Other calls use the im2col path (deform_columns.py).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dkic.ops.memory_format import gradient_like
from dkic.ops.triton import deform_columns
from dkic.ops.triton import deform_conv2d_kernels as kernels
from dkic.ops.triton.deform_problem import Problem, problem
from dkic.ops.triton.grid import cdiv
from dkic.ops.triton.image_sums import ImageSums, finite, fixed_powers, largest
from dkic.ops.triton.layouts import as_laid_out, channels_adjacent, empty_nhwc, pixel_strides
from dkic.ops.triton.tiles import Tiles, channel_block, choose, output_blocks, tune

# The gradient of weight is split over the pixels (split-K), by shape only: into PROGRAMS programs of at least PART pixels each.
PROGRAMS, PART = 1024, 512


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """dkic::deform_conv2d. RuntimeError: an argument is invalid (for calls that bypass the public op)."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    if bias is not None and (bias.shape != (p.outputs,) or bias.device != input.device):
        raise RuntimeError("deform_conv2d: bias must have one number for each output channel")
    y = empty_nhwc(input, (input.shape[0], p.outputs, *p.out_size))
    if p.pixels and p.outputs:
        bias = None if bias is None else bias.contiguous()
        with torch.cuda.device_of(input):
            if p.fused:
                fused_forward(p, bias, y, choose("forward", p).tiles)
            else:
                deform_columns.forward(p, bias, y)
    return as_laid_out(y, input)


def fused_forward(p: Problem, bias: Tensor | None, y: Tensor, tiles: Tiles) -> None:
    block, rest = output_blocks(p.group_outputs, tiles.outputs)
    programs = cdiv(p.pixels, tiles.pixels) * p.weight_groups * cdiv(p.group_outputs, block + rest)
    kernels.forward[(programs,)](
        p.arguments,
        p.rows_of_weight(p.run),
        bias,
        y,
        p.weight_groups,
        p.group_outputs,
        p.depth // p.run,
        RUN=p.run,
        GROUP_DEPTH=p.group_depth,
        BLOCK_P=tiles.pixels,
        BLOCK_O=block,
        REST_O=rest,
        VECTORS=tiles.channels // 8,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **p.types(y),
    )


def backward(
    grad_y: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    need_input: bool,
    need_offset: bool,
    need_weight: bool,
    need_bias: bool,
    need_mask: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dkic::deform_conv2d_backward. RuntimeError: an argument is invalid (for calls that bypass autograd)."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    if grad_y.shape != (input.shape[0], p.outputs, *p.out_size) or (grad_y.dtype, grad_y.device) != (input.dtype, input.device):
        raise RuntimeError("deform_conv2d_backward: grad_y must have the shape, dtype and device of deform_conv2d's result")
    need_mask = need_mask and mask is not None
    if not p.pixels or not p.outputs:
        wanted = (input, need_input), (offset, need_offset), (mask, need_mask)
        zeros = [gradient_like(offset if t is None else t, need).zero_() for t, need in wanted]
        of_weights = weight.new_zeros(weight.shape if need_weight else 0), weight.new_zeros(p.outputs if need_bias else 0)
        return zeros[0], zeros[1], *of_weights, zeros[2]
    grad_y = channels_adjacent(grad_y)
    grad_offset = empty_nhwc(offset, offset.shape) if need_offset else None
    grad_mask = empty_nhwc(mask, mask.shape) if mask is not None and need_mask else None
    with torch.cuda.device_of(input):
        sums = ImageSums(p.x, p.sum_dtype, powers_of(p, grad_y) if deterministic else None) if need_input else None
        if p.fused:
            grad_weight = backward_weight(p, grad_y, choose("weight", p).tiles) if need_weight else None
            if need_input or need_offset or need_mask:
                backward_samples(p, grad_y, grad_offset, grad_mask, sums)
        else:
            grad_weight = deform_columns.backward(p, grad_y, grad_offset, grad_mask, sums, need_weight)
        grad_bias = grad_y.sum((0, 2, 3), dtype=p.sum_dtype).to(p.x.dtype) if need_bias else None
        grad_input = None if sums is None else as_laid_out(sums.total(), input)
    return (
        input.new_empty(0) if grad_input is None else grad_input,
        offset.new_empty(0) if grad_offset is None else as_laid_out(grad_offset, offset),
        weight.new_empty(0) if grad_weight is None else grad_weight,
        weight.new_empty(0) if grad_bias is None else grad_bias,
        (offset if mask is None else mask).new_empty(0) if grad_mask is None or mask is None else as_laid_out(grad_mask, mask),
    )


def backward_samples(
    p: Problem, grad_y: Tensor, grad_offset: Tensor | None, grad_mask: Tensor | None, sums: ImageSums | None
) -> None:
    """Writes grad_offset, grad_mask and sums unless they are None."""
    types = p.types(grad_y, *([] if sums is None else [sums.sums]))
    in_integers = sums is not None and sums.powers is not None
    tiles = choose("samples", p, in_integers or types["INDEX"] == tl.int64).tiles
    kernels.backward_samples[(cdiv(p.pixels, tiles.pixels) * p.groups * p.taps,)](
        p.arguments,
        p.rows_of_weight(p.run),
        grad_y,
        pixel_strides(grad_y),
        None if sums is None else sums.arguments,
        grad_offset,
        grad_mask,
        p.groups,
        p.group_outputs,
        p.depth // p.run,
        RUN=p.run,
        GROUP_DEPTH=p.group_depth,
        BLOCK_P=tiles.pixels,
        BLOCK_O=channel_block(p.group_outputs, tiles.outputs, least=16),
        BLOCK_C=channel_block(p.run, tiles.channels, least=16),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **types,
    )


def backward_weight(p: Problem, grad_y: Tensor, tiles: Tiles) -> Tensor:
    """Gradient of weight: one program per partial sum, then a reduction of the partial sums by PyTorch, in a fixed order."""
    block, rest = output_blocks(p.group_outputs, tiles.outputs)
    row = p.taps * p.depth
    programs = cdiv(p.group_outputs, block + rest) * cdiv(row, tiles.channels) * p.weight_groups
    parts = max(min(cdiv(PROGRAMS, programs), cdiv(p.pixels, PART)), 1)
    partial = p.x.new_empty((parts, p.outputs, p.depth // p.run, p.taps, p.run), dtype=p.sum_dtype)
    kernels.backward_weight[(programs * parts,)](
        p.arguments,
        grad_y,
        pixel_strides(grad_y),
        partial,
        p.weight_groups,
        p.group_outputs,
        p.depth // p.run,
        cdiv(cdiv(p.pixels, tiles.pixels), parts),
        RUN=p.run,
        GROUP_DEPTH=p.group_depth,
        BLOCK_P=tiles.pixels,
        BLOCK_O=block,
        REST_O=rest,
        VECTORS=tiles.channels // 8,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **p.types(grad_y, partial),
    )
    return p.from_rows(partial.sum(0))


def powers_of(p: Problem, grad_y: Tensor) -> Tensor:
    """Scaling of the integer sums for the gradient of input, from the maxima of grad_y, mask and the weights' column sums."""
    per_column = finite(p.weight).double().abs().unflatten(0, (-1, p.group_outputs)).sum(1)
    bounds = [largest(grad_y), per_column.amax()] + ([] if p.mask is None else [largest(p.mask)])
    return fixed_powers(bounds, math.prod(p.out_size) * p.taps, p.x.dtype == torch.float64)


def kernels_of(p: Problem) -> tuple[str, ...]:
    """Names, in `tiles.choose`, of the kernels of a call and its backward."""
    return ("forward", "samples", "weight") if p.fused else ("columns", "column samples")


def explain(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None) -> str:
    """Describes the path, fused or im2col, and the tiles of a call and its backward."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    if p.fused:
        block, rest = output_blocks(p.group_outputs, choose("forward", p).tiles.outputs)
        outputs = f"{block} + {rest}" if rest else f"{block}"
        lines = [f"fused: samples are computed and multiplied in one kernel, for {outputs} outputs at a time"]
    else:
        size = deform_columns.block_size(p, p.x.dtype)
        lines = [f"columns: samples are written for {size} output pixels at a time and multiplied by torch"]
    for kernel in kernels_of(p):
        choice = choose(kernel, p)
        tiles = choice.tiles
        lines.append(f"{kernel}: {tiles.pixels} pixels x {tiles.channels} channels, {tiles.warps} warps ({choice.origin})")
    return "\n".join(lines)


def tune_call(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None) -> dict[str, Tiles]:
    """Autotunes the kernels of a call and its backward on this GPU and stores the fastest tiles: see `tiles.tune`."""
    p = problem(input, offset, weight, mask, stride, padding, dilation)
    geometry = list(stride), list(padding), list(dilation)
    y = forward(input, offset, weight, bias, mask, *geometry)

    def seconds(kernel: str) -> float:
        def call():
            if kernel in ("forward", "columns"):
                forward(input, offset, weight, bias, mask, *geometry)
            else:
                backward(y, input, offset, weight, mask, *geometry, True, True, True, False, mask is not None, False)

        return triton.testing.do_bench(call, return_mode="median") * 1e-3

    return tune(p, kernels_of(p), seconds)
