"""Validated arguments of a deform_conv2d call on a GPU, and the choice between the fused and the im2col path."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dkic.ops.triton.samples import Samples, samples_of


@dataclass(frozen=True)
class Problem(Samples):
    """weight: `[O, depth, kernel height, kernel width]`."""

    weight: Tensor

    @cached_property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @cached_property
    def depth(self) -> int:
        """Channels per weight group."""
        return self.weight.shape[1]

    @cached_property
    def weight_groups(self) -> int:
        return self.x.shape[1] // self.depth

    @cached_property
    def group_outputs(self) -> int:
        """Outputs per weight group."""
        return self.outputs // self.weight_groups

    @cached_property
    def run(self) -> int:
        """Adjacent channels that share an offset group and a weight group."""
        return math.gcd(self.depth, self.group_depth)

    @cached_property
    def fused(self) -> bool:
        """Whether the fused kernels run: in half precision, if the shape fills the tiles of the tensor cores."""
        return self.x.dtype.itemsize == 2 and self.run % 8 == 0 and self.depth >= 16 and self.group_outputs >= 16

    def types(self, *others: Tensor) -> dict[str, Any]:
        return super().types(self.weight, *others)

    def rows_of_weight(self, run: int) -> Tensor:
        """weight as contiguous `[O, depth / run, taps, run]`."""
        return self.weight.reshape(self.outputs, self.depth // run, run, self.taps).transpose(2, 3).contiguous()

    def from_rows(self, rows: Tensor) -> Tensor:
        """The gradient of weight from the gradient of `rows_of_weight`."""
        like_weight = rows.transpose(2, 3).reshape(self.weight.shape)
        return like_weight.to(self.weight.dtype, copy=True, memory_format=torch.contiguous_format)


def problem(input, offset, weight, mask, stride, padding, dilation) -> Problem:
    """Checks the arguments of a call. RuntimeError as `samples_of`, or if weight does not match."""
    if weight.dim() != 4 or (weight.dtype, weight.device) != (input.dtype, input.device) or 0 in weight.shape[1:]:
        raise RuntimeError("deform_conv2d: weight must have 4 dimensions, and the dtype and device of input")
    samples = samples_of("deform_conv2d", input, offset, mask, weight.shape[2:], stride, padding, dilation)
    p = Problem(**vars(samples), weight=weight)
    if input.shape[1] % p.depth or p.outputs % p.weight_groups:
        raise RuntimeError("deform_conv2d: the shape of weight does not fit input")
    return p
