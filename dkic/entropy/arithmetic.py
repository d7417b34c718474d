"""How the entropy model is evaluated, as a .dkic file's header states it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `dkic info` does without it
    import torch


class Arithmetic(enum.IntEnum):
    """One of the ways to evaluate the entropy model."""

    FLOAT64 = 1  # in float64, means and scale indexes rounded to their grids: alike on all CPUs in practice
    EXACT = 2  # by the integers of dkic.quantized: alike everywhere, as docs/quantized.md argues

    @property
    def dtype(self) -> torch.dtype:
        """Of z_hat, y_hat and all between them."""
        import torch

        return torch.float64 if self == Arithmetic.FLOAT64 else torch.float32

    def __str__(self) -> str:
        return {1: "float64-1", 2: "exact-1"}[self]


def arithmetic_name(number: int) -> str:
    """Of what a header states, whether or not this dkic knows it."""
    return str(Arithmetic(number)) if number in list(Arithmetic) else f"number {number}, unknown to this dkic"
