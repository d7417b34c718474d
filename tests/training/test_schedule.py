"""The cosine schedule of the learning rate."""

import pytest

from dkic.training.schedule import CosineSchedule


def test_the_rate_falls_from_the_peak_to_2_percent():
    schedule = CosineSchedule(1e-3, steps=100)
    assert [schedule.at(step) for step in (0, 50, 100, 101)] == pytest.approx([1e-3, 0.51e-3, 2e-5, 2e-5])
    rates = [schedule.at(step) for step in range(101)]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_rises_during_warmup():
    warmed, schedule = CosineSchedule(1e-3, steps=100, warmup_steps=3), CosineSchedule(1e-3, steps=100)
    assert [warmed.at(step) / schedule.at(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
