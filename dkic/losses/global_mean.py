"""Means over the global batch: that of all processes together where torch.distributed is initialised."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def global_mean(t: Tensor) -> Tensor:
    """Mean of all elements of `t` over all processes, as a scalar; differentiable.

    Every process gives as many elements, as DistributedDataParallel's mean of gradients supposes too; after that mean
    each has the gradient that one process with the joint batch would have.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return t.mean()
    return _AllReduceSum.apply(t.mean()) / dist.get_world_size()


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes. Every process' loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        total = t.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
