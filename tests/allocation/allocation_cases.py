"""Rate-distortion tables for tests and benchmarks, and the least distortion by exhaustive search."""

import itertools
import math

import numpy as np


def rate_distortion(n: int, qualities: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """bpp, rising by 1.6 from about 0.02, and a distortion falling by a power of it; `[n, qualities]`, with noise."""
    rng = np.random.default_rng(seed)
    rate = 0.03 * 1.6 ** np.arange(qualities) * rng.lognormal(0, 0.5, (n, 1)) * rng.lognormal(0, 0.08, (n, qualities))
    rate.sort(axis=1)
    power = -0.6 * rng.lognormal(0, 0.15, (n, 1))
    distortion = 0.3 * rng.lognormal(0, 0.3, (n, 1)) * (rate / 0.05) ** power * rng.lognormal(0, 0.04, (n, qualities))
    return rate, distortion


def all_choices(n: int, qualities: int) -> np.ndarray:
    """`[qualities**n, n]`."""
    return np.array(list(itertools.product(range(qualities), repeat=n)))


def chosen(table: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """What is chosen from `[N, M]`, by choices `[..., N]`."""
    return table[np.arange(len(table)), choice]


def least_distortion(rate: np.ndarray, distortion: np.ndarray, most: float) -> float:
    """Least sum of distortion over choices whose sum of rates is at most `most`; infinite if there is none. NaN: no option."""
    choices = all_choices(*rate.shape)
    within = choices[chosen(rate, choices).sum(axis=1) <= most * (1 + 1e-12)]
    if len(within) == 0:
        return math.inf
    return float(chosen(distortion, within).sum(axis=1).min())
