"""A call of deform_conv2d on a GPU: its arguments, checked, and which of the two ways serves it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dkic.ops.triton.samples import Samples, samples_of


@dataclass(frozen=True)
class Problem(Samples):
    """weight: `[O, depth, kernel height, kernel width]`, as given."""

    weight: Tensor

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def depth(self) -> int:
        """Channels of a weight group."""
        return self.weight.shape[1]

    @property
    def weight_groups(self) -> int:
        return self.x.shape[1] // self.depth

    @property
    def group_outputs(self) -> int:
        """Outputs of a weight group."""
        return self.outputs // self.weight_groups

    @property
    def run(self) -> int:
        """Channels that share an offset group and a weight group."""
        return math.gcd(self.depth, self.group_depth)

    @property
    def fused(self) -> bool:
        """Whether samples are multiplied where they are made: in half precision, where the tensor cores' tiles are filled."""
        return self.x.dtype.itemsize == 2 and self.run % 8 == 0 and self.depth >= 16 and self.group_outputs >= 16

    def types(self, *others: Tensor) -> dict[str, Any]:
        return super().types(self.weight, *others)

    def rows_of_weight(self, run: int) -> Tensor:
        """`[O, depth / run, taps, run]`, without gaps."""
        return self.weight.reshape(self.outputs, self.depth // run, run, self.taps).transpose(2, 3).contiguous()

    def from_rows(self, rows: Tensor) -> Tensor:
        """A gradient of weight from that of `rows_of_weight`."""
        like_weight = rows.transpose(2, 3).reshape(self.weight.shape)
        return like_weight.to(self.weight.dtype, copy=True, memory_format=torch.contiguous_format)


def problem(input, offset, weight, mask, stride, padding, dilation) -> Problem:
    """RuntimeError as `samples_of`, and where weight does not fit."""
    if weight.dim() != 4 or (weight.dtype, weight.device) != (input.dtype, input.device) or 0 in weight.shape[1:]:
        raise RuntimeError("deform_conv2d: weight must have 4 dimensions, and the dtype and device of input")
    samples = samples_of("deform_conv2d", input, offset, mask, weight.shape[2:], stride, padding, dilation)
    p = Problem(**vars(samples), weight=weight)
    if input.shape[1] % p.depth or p.outputs % p.weight_groups:
        raise RuntimeError("deform_conv2d: the shape of weight does not fit input")
    return p
