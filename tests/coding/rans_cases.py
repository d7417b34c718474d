"""Problems for tests and benchmarks of the entropy coder: Gaussian symbols of many scales."""

from dataclasses import dataclass

import numpy as np
import torch

from dkic.entropy.tables import SCALES


@dataclass(frozen=True)
class RansCase:
    """n symbols, the scale of each drawn from the first `largest_index` + 1 of SCALES.

    least, most: bytes between which the stream is, whatever is thought ideal. share, extra: it may differ from the ideal by
    this share, and be this many bytes longer still.
    """

    name: str
    n: int
    largest_index: int
    least: int
    most: int
    share: float
    extra: int

    def __str__(self) -> str:
        return self.name

    def symbols(self) -> tuple[np.ndarray, np.ndarray]:
        """Symbols int32 `[n]` and indexes uint8 `[n]`, the same at every call."""
        return gaussian_symbols(self.n, largest_index=self.largest_index)


RANS_CASES = [
    # As many as the latent of a 768x512 image has, with all 64 tables.
    RansCase("491,520 symbols", 491_520, 63, 280_000, 282_000, 0.001, 0),
    RansCase("5,000 symbols", 5_000, 63, 2800, 2900, 0.002, 16),
    # Most symbols almost certain, as in a 768x512 image at 0.075 bpp.
    RansCase("491,520 symbols in 4 KB", 491_520, 6, 3000, 4500, 0.002, 16),
]


def gaussian_symbols(n: int, seed: int = 0, largest_index: int = 63, dtype: type = np.int32) -> tuple[np.ndarray, np.ndarray]:
    """Rounded zero-mean Gaussians `[n]`, and the index of each one's scale, uint8 `[n]`."""
    rng = np.random.default_rng(seed)
    indexes = rng.integers(0, largest_index + 1, n).astype(np.uint8)
    return np.rint(rng.normal(size=n) * SCALES[indexes]).astype(dtype), indexes


def gaussian_bytes(symbols: np.ndarray, indexes: np.ndarray) -> float:
    """What an ideal coder needs with the Gaussians themselves, without any table."""
    size = torch.from_numpy(symbols).abs().double()
    scale = torch.from_numpy(SCALES)[indexes.astype(np.int64)]
    inner = torch.special.log_ndtr(-(size - 0.5) / scale)
    outer = torch.special.log_ndtr(-(size + 0.5) / scale)
    return float(-(inner + torch.log(-torch.expm1(outer - inner))).sum() / np.log(2) / 8)
