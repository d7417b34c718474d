"""Rounding of symbols, coded means and coded scales."""

import numpy as np
import torch

from dkic.entropy.quantization import SCALE_INDEX_MAX, coded_index, coded_mean, qstep_size, scale_of_index
from dkic.entropy.tables import SCALES
from dkic.ops.requantize import round_ste


def test_integer_indexes_give_the_scales_of_the_tables():
    scales = scale_of_index(torch.arange(64, dtype=torch.float64))
    np.testing.assert_allclose(scales.numpy(), SCALES, rtol=1e-12)
    assert SCALE_INDEX_MAX == len(SCALES) - 1 == 63


def test_the_coded_index_is_the_nearest_scale_in_log():
    index = torch.rand(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 80 - 8
    log_scale = np.log(scale_of_index(index).numpy())
    nearest = np.abs(log_scale[:, None] - np.log(SCALES)).argmin(1)
    coded = coded_index(index)
    assert coded.dtype == torch.uint8
    assert np.array_equal(coded.numpy(), nearest)


def test_the_coded_index_stays_in_the_table():
    index = torch.tensor([-1e30, -1.0, -0.4, 63.4, 64.0, 255.6, 1e30, torch.inf, -torch.inf])
    assert coded_index(index).tolist() == [0, 0, 0, 63, 63, 63, 63, 63, 0]


def test_a_qstep_shifts_the_index_by_one_table():
    """Sizes are powers of the ratio of scales, rounded to 1/64, and a qstep reduces the index by as many tables."""
    ratio = SCALES[1] / SCALES[0]
    assert [qstep_size(qstep) * 64 for qstep in range(-8, 9)] == [round(64 * ratio**qstep) for qstep in range(-8, 9)]
    assert qstep_size(0) == 1
    index = torch.tensor([-20.0, 0.0, 7.0, 7.6, 63.0, 90.0])
    assert coded_index(index, 3).tolist() == [0, 0, 4, 5, 60, 60]
    assert coded_index(index, -3).tolist() == [3, 3, 10, 11, 63, 63]


def test_the_coded_mean_is_the_nearest_64th():
    mean = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 20
    coded = coded_mean(mean)
    assert torch.equal(coded * 64, (coded * 64).round())
    assert (coded - mean).abs().max() <= 1 / 128
    assert torch.equal(coded_mean(coded), coded)


def test_small_errors_do_not_change_coded_means():
    """Float64 networks on two machines differ by 1e-13, which rounding removes."""
    index = torch.arange(64, dtype=torch.float64)
    mean = torch.arange(-640, 640, dtype=torch.float64) / 64
    for error in (-0.4, -1e-13, 1e-13, 0.4):
        assert torch.equal(coded_index(index + error), coded_index(index))
        assert torch.equal(coded_mean(mean + error / 64), mean)


def test_rounding_is_to_even_and_its_gradient_passes_straight_through():
    t = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.4, 2.6], requires_grad=True)
    rounded = round_ste(t)
    assert rounded.tolist() == [-2, 0, 0, 2, 2, 3]
    (rounded * torch.arange(6.0)).sum().backward()
    assert t.grad.tolist() == [0, 1, 2, 3, 4, 5]
