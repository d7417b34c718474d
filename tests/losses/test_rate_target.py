"""Equation 2: which lambda is selected, and which rate has the gradient."""

import math

import pytest
import torch

from dkic.errors import DkicError
from dkic.losses.rate_target import RateTarget, StepSchedule

RATE = RateTarget(target=0.14, lambda_alpha=2.0, lambda_beta=0.0625)


@pytest.mark.parametrize(("bpp", "expected"), [(0.2, 2.0), (0.14, 2.0), (0.1399, 0.0625), (0.0, 0.0625)])
def test_lambda_alpha_from_the_target_on_and_lambda_beta_below(bpp, expected):
    assert RATE.weight(torch.tensor([bpp], dtype=torch.float64), 0) == expected


def test_the_mean_over_the_batch_is_compared():
    assert RATE.weight(torch.tensor([0.01, 0.30]), 0) == 2.0
    assert RATE.weight(torch.tensor([0.01, 0.26]), 0) == 0.0625


@pytest.mark.parametrize(("quantized", "weight"), [(0.1, 0.0625), (0.2, 2.0)])
def test_the_quantized_rate_selects_lambda_and_the_noisy_rate_has_the_gradient(quantized, weight):
    noisy = torch.tensor([0.3, 0.05], requires_grad=True)
    rounded = torch.full((2,), quantized, requires_grad=True)
    loss, used = RATE.loss(noisy, rounded, 0)
    assert used == weight and loss.item() == pytest.approx(weight * 0.175)
    loss.backward()
    assert noisy.grad.tolist() == pytest.approx([weight / 2] * 2)
    assert rounded.grad is None


def test_schedules_multiply_target_and_lambdas():
    """HiFiC's: 0.20 and twice the lambda for the first steps."""
    rate = RateTarget(0.14, 2.0, 0.0625, StepSchedule((0.20 / 0.14, 1.0), (50,)), StepSchedule((2.0, 1.0), (50,)))
    bpp = torch.tensor([0.17])
    assert rate.target_at(49) == pytest.approx(0.20) and rate.target_at(50) == 0.14
    assert rate.weight(bpp, 49) == 0.125  # below the looser target
    assert rate.weight(bpp, 50) == 2.0
    assert rate.weight(bpp + 1, 49) == 4.0


def test_a_schedule_is_piecewise_constant():
    schedule = StepSchedule((3.0, 2.0, 1.0), (10, 20))
    assert [schedule.at(step) for step in (0, 9, 10, 19, 20, 10**6)] == [3, 3, 2, 2, 1, 1]
    assert StepSchedule().at(5) == 1


def test_descent_converges_to_the_target():
    """If the distortion favors more bits, the rate converges to the target."""
    rate, target = torch.tensor(1.0, requires_grad=True), RateTarget(0.3, 4.0, 0.01)
    optimizer = torch.optim.SGD([rate], 0.002)
    for step in range(2000):
        optimizer.zero_grad()
        (1 / (10 * rate + 1) + target.loss(rate[None], rate[None], step)[0]).backward()
        optimizer.step()
    assert rate.item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"target": 0.0}, "target"),
        ({"target": math.nan}, "target"),
        ({"lambda_alpha": -1.0}, "lambda_alpha"),
        ({"lambda_alpha": math.inf}, "lambda_alpha"),
        ({"lambda_beta": 2.0}, "lambda_beta"),
        ({"lambda_beta": -0.1}, "lambda_beta"),
    ],
)
def test_invalid_values_are_named(wrong, names):
    with pytest.raises(DkicError, match=f"^{names}: is "):
        RateTarget(**{"target": 0.14, "lambda_alpha": 2.0, "lambda_beta": 0.0625} | wrong)


@pytest.mark.parametrize(
    ("factors", "steps"),
    [
        ((), ()),
        ((1.0,), (5,)),
        ((1.0, 0.0), (5,)),
        ((math.nan, 1.0), (5,)),
        ((1.0, 2.0), (0,)),
        ((1.0, 2.0, 3.0), (5, 5)),
    ],
)
def test_invalid_schedules_are_refused(factors, steps):
    with pytest.raises(DkicError, match="^StepSchedule/"):
        StepSchedule(factors, steps)


def test_rates_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[2\] and \[1\]"):
        RATE.loss(torch.ones(2), torch.ones(1), 0)
    with pytest.raises(ValueError, match="give the images' rates"):
        RATE.loss(torch.ones(0), torch.ones(0), 0)
