"""Batching rules of ldcn and deform_conv2d for `torch.vmap`: the vmapped dimension is folded into the batch or the groups."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dkic.ops.schemas import library


class _Fold:
    """Folds a vmapped dimension of `size` into another dimension, the same for all tensors of a call, and unfolds it.

    into: 0, the batch; 1, the channels: each vmapped call then has its own groups.
    """

    def __init__(self, size: int, into: int) -> None:
        if size == 0:
            raise ValueError("dkic.ops: torch.vmap needs a dimension of at least 1, and this one is 0")
        self.size, self.into = size, into

    def fold(self, t: Tensor | None, in_dim: int | None, into: int | None = None) -> Tensor | None:
        """t with its vmapped dimension folded, or repeated if it has none. into: overrides `self.into` for this tensor."""
        if t is None:
            return None
        into = self.into if into is None else into
        t = t.unsqueeze(into).expand(*t.shape[:into], self.size, *t.shape[into:]) if in_dim is None else t.movedim(in_dim, into)
        return t.flatten(into, into + 1)

    def unfold(self, t: Tensor, into: int | None = None) -> tuple[Tensor, int | None]:
        """(t, out_dim). An empty t, the placeholder of a gradient that is not needed, is returned unchanged."""
        into = self.into if into is None else into
        return (t, None) if t.shape == (0,) else (t.unflatten(into, (self.size, t.shape[into] // self.size)), into)


def _together(results: Sequence[tuple[Tensor, int | None]]) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    tensors, out_dims = zip(*results, strict=True)
    return tensors, out_dims


@torch.library.register_vmap("dkic::ldcn", lib=library)
def _ldcn(info, in_dims, x, offset, mask, *geometry):
    batch = _Fold(info.batch_size, 0)
    x, offset, mask = (batch.fold(t, dim) for t, dim in zip((x, offset, mask), in_dims, strict=False))
    return batch.unfold(torch.ops.dkic.ldcn(x, offset, mask, *geometry))


@torch.library.register_vmap("dkic::ldcn_backward", lib=library)
def _ldcn_backward(info, in_dims, grad_y, x, offset, mask, *others):
    batch = _Fold(info.batch_size, 0)
    tensors = (batch.fold(t, dim) for t, dim in zip((grad_y, x, offset, mask), in_dims, strict=False))
    return _together([batch.unfold(t) for t in torch.ops.dkic.ldcn_backward(*tensors, *others)])


@torch.library.register_vmap("dkic::deform_conv2d", lib=library)
def _deform_conv2d(info, in_dims, input, offset, weight, bias, mask, *geometry):
    of_input, of_offset, of_weight, of_bias, of_mask, *_ = in_dims
    if of_weight is None and of_bias is None:
        batch = _Fold(info.batch_size, 0)
        input, offset, mask = batch.fold(input, of_input), batch.fold(offset, of_offset), batch.fold(mask, of_mask)
        return batch.unfold(torch.ops.dkic.deform_conv2d(input, offset, weight, bias, mask, *geometry))
    groups = _Fold(info.batch_size, 1)
    input, offset, mask = groups.fold(input, of_input), groups.fold(offset, of_offset), groups.fold(mask, of_mask)
    weight, bias = groups.fold(weight, of_weight, 0), groups.fold(bias, of_bias, 0)
    return groups.unfold(torch.ops.dkic.deform_conv2d(input, offset, weight, bias, mask, *geometry))


@torch.library.register_vmap("dkic::deform_conv2d_backward", lib=library)
def _deform_conv2d_backward(
    info,
    in_dims,
    grad_y,
    input,
    offset,
    weight,
    mask,
    stride,
    padding,
    dilation,
    need_input,
    need_offset,
    need_weight,
    need_bias,
    need_mask,
    deterministic,
):
    of_grad_y, of_input, of_offset, of_weight, of_mask, *_ = in_dims
    per_sample = of_weight is not None or need_weight or need_bias  # folded into the batch, they would be summed over it
    fold = _Fold(info.batch_size, 1 if per_sample else 0)
    grad_y, input = fold.fold(grad_y, of_grad_y), fold.fold(input, of_input)
    offset, mask = fold.fold(offset, of_offset), fold.fold(mask, of_mask)
    weight = fold.fold(weight, of_weight, 0) if per_sample else weight
    grad_input, grad_offset, grad_weight, grad_bias, grad_mask = torch.ops.dkic.deform_conv2d_backward(
        grad_y,
        input,
        offset,
        weight,
        mask,
        stride,
        padding,
        dilation,
        need_input,
        need_offset,
        need_weight,
        need_bias,
        need_mask,
        deterministic,
    )
    return _together(
        [
            fold.unfold(grad_input),
            fold.unfold(grad_offset),
            fold.unfold(grad_weight, 0),
            fold.unfold(grad_bias, 0),
            fold.unfold(grad_mask),
        ]
    )
