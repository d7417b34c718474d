"""Means over the global batch: over all processes if torch.distributed is initialized."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def global_mean(t: Tensor) -> Tensor:
    """Mean of all elements of `t` over all processes, as a scalar; differentiable.

    Every process must have the same number of elements, as in DistributedDataParallel. After DistributedDataParallel averages
    gradients, each process has the gradient of a single process with the global batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return t.mean()
    return _AllReduceSum.apply(t.mean()) / dist.get_world_size()


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes. Its gradient is the sum of the gradients of all processes."""

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
