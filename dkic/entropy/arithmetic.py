"""Arithmetic of the entropy model, which the header of a .dkic file states."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `dkic info` must not load PyTorch
    import torch


class Arithmetic(enum.IntEnum):
    """Arithmetic in which the entropy networks are evaluated."""

    FLOAT64 = 1  # float64, with means and scale indexes rounded: in practice equal on all CPUs
    EXACT = 2  # integers of dkic.quantized: equal on every machine, see docs/quantized.md

    @property
    def dtype(self) -> torch.dtype:
        """dtype of z_hat, y_hat and the entropy networks' activations."""
        import torch

        return torch.float64 if self == Arithmetic.FLOAT64 else torch.float32

    def __str__(self) -> str:
        return {1: "float64-1", 2: "exact-1"}[self]


def arithmetic_name(number: int) -> str:
    """Name of an arithmetic in a header, which may be unknown to this version of dkic."""
    return str(Arithmetic(number)) if number in list(Arithmetic) else f"number {number}, unknown to this dkic"
