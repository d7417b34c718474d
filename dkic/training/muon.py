"""The optimizer Muon for the convolutions of the transforms."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

LEAST_SIDE = 32  # of a weight's matrix; smaller ones are Adam's


class ConvMuon(Optimizer):
    """`torch.optim.Muon` for the weights of convolutions, as matrices with a row for each output channel.

    The update, an orthogonal matrix, has the root mean square of Adam's, so Adam's learning rates apply. No weight decay.

    Args:
        weights: weights `[out, in, kh, kw]`, contiguous or channels last, and the number of matrices of each: row i of a weight
            belongs to matrix i modulo this number.
    """

    def __init__(self, weights: Iterable[tuple[Tensor, int]]) -> None:
        self._weights = list(weights)
        super().__init__([weight for weight, _ in self._weights], {"lr": 1e-3})
        # Parameters of the same memory.
        self._matrices = [[nn.Parameter(m) for m in _views(weight.detach(), n)] for weight, n in self._weights]
        self._muon = torch.optim.Muon(
            [matrix for matrices in self._matrices for matrix in matrices], weight_decay=0, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the weights that have a gradient. closure: must be None."""
        assert closure is None
        self._muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for (weight, n), matrices in zip(self._weights, self._matrices, strict=True):
            gradients = [None] * n if weight.grad is None else _views(weight.grad.contiguous(memory_format=_format(weight)), n)
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient
        self._muon.step()

    def state_dict(self) -> dict[str, Any]:
        return self._muon.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._muon.load_state_dict(state_dict)


def matrices_of(transforms: Iterable[nn.Module]) -> Iterator[tuple[Tensor, int]]:
    """The weights in `transforms` that `ConvMuon` optimizes: of convolutions with groups = 1 whose matrices are large enough.

    A convolution before a pixel shuffle has a matrix for each of the pixels that a position becomes.
    """
    modules = [module for transform in transforms for module in transform.modules()]
    shuffled = {
        layer: after.upscale_factor**2
        for module in modules
        if isinstance(module, nn.Sequential)
        for layer, after in pairwise(module)
        if isinstance(after, nn.PixelShuffle)
    }
    for module in modules:
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            n = shuffled.get(module, 1)
            if min(len(module.weight) // n, module.weight[0].numel()) >= LEAST_SIDE:
                yield module.weight, n


def _format(weight: Tensor) -> torch.memory_format:
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def _views(weight: Tensor, n: int) -> list[Tensor]:
    """The n matrices of a weight, in its memory."""
    rows = weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1)
    return [rows[i::n].view(len(rows) // n, -1) for i in range(n)]
