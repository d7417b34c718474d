"""Invalid problems are refused, naming row, column and number."""

import numpy as np
import pytest
import torch

from dkic.allocation import allocate
from dkic.errors import DkicError

RATE = np.array([[0.1, 0.2, 0.4], [0.2, 0.3, 0.5]])
DISTORTION = np.array([[0.3, 0.2, 0.1], [0.5, 0.3, 0.2]])
NAN = float("nan")


def put(table: np.ndarray, value: float, *at: int) -> np.ndarray:
    changed = table.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("rate", "distortion", "said"),
    [
        (put(RATE, -0.5, 1, 2), DISTORTION, "row 1, column 2: rate is -0.5 .*; give a rate of at least 0"),
        (put(RATE, NAN, 0, 1), DISTORTION, "row 0, column 1: rate is nan and distortion 0.2; give NaN in both"),
        (RATE, put(DISTORTION, NAN, 1, 0), "row 1, column 0: rate is 0.2 and distortion nan; give NaN in both"),
        (put(RATE, np.inf, 0, 0), DISTORTION, "row 0, column 0: rate is inf .*; give finite"),
        (RATE, put(DISTORTION, -np.inf, 1, 1), "row 1, column 1: rate is 0.3 and distortion -inf; give finite"),
        (put(RATE, NAN, 1), put(DISTORTION, NAN, 1), "row 1: each of its 3 columns is NaN"),
        (RATE[:, :2], DISTORTION, r"rate, distortion: have shapes \(2, 2\) and \(2, 3\); give \[N, M\]"),
        (RATE[0], DISTORTION[0], r"rate, distortion: have shapes \(3,\) and \(3,\); give \[N, M\]"),
        (RATE[:0], DISTORTION[:0], r"have shapes \(0, 3\) .*; give .* at least one image and one option"),
    ],
)
def test_invalid_rates_and_distortions_are_refused(rate, distortion, said):
    with pytest.raises(DkicError, match=said):
        allocate(rate, distortion, 0.3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "bpp"}, "kind: is 'bpp'; give one of mean_bpp, total_bytes, total_bpp"),
        ({"kind": "total_bpp"}, "pixels: .* kind total_bpp"),
        ({"max_bytes": 10}, "pixels: .* max_bytes"),
        ({"pixels": [100, 0]}, r"pixels\[1\]: is 0.0; give at least 1"),
        ({"pixels": [100, NAN]}, r"pixels\[1\]: is nan; give at least 1"),
        ({"pixels": [1, 2, 3]}, r"pixels: has shape \(3,\); give a number, or one for each of the 2 images"),
        ({"weights": [-1, 1]}, r"weights\[0\]: is -1.0; give at least 0"),
        ({"weights": [np.inf, 1]}, r"weights\[0\]: is inf; give at least 0"),
        ({"max_distortion": NAN}, r"max_distortion\[0\]: is nan; give a number"),
        ({"max_distortion": [0.4, 0.1]}, r"row 1: no option is left of 3 \(3 above max_distortion\)"),
        ({"min_quality": 3}, r"row 0: no option is left of 3 \(3 below min_quality\)"),
        ({"min_quality": 1, "max_bytes": [9, 6], "pixels": 240}, "row 1: .*1 below min_quality, 2 above max_bytes"),
        ({"names": ["a"]}, "names: are 1; give one for each of the 2 images"),
        ({"names": ["a", "b"], "min_quality": [0, 7]}, r"row 1 \(b\): no option is left"),
        ({"gap": -1}, "gap: is -1; give a finite number of at least 0"),
        ({"gap": NAN}, "gap: is nan; give"),
        ({"gap": None}, "gap: is None; give"),
        ({"time_limit": -1}, "time_limit: is -1; give None, or at least 0 seconds"),
        ({"groups": [0, 0]}, r"budget: has shape \(\); give \[G\], one for each group"),
    ],
)
def test_invalid_arguments_are_refused(given, said):
    with pytest.raises(DkicError, match=said):
        allocate(RATE, DISTORTION, 0.3, **given)


@pytest.mark.parametrize(
    ("budget", "groups", "said"),
    [
        ([0.3, 0.3], None, r"budget: has shape \(2,\); give one number"),
        (NAN, None, "budget: is nan; give a finite number of at least 0"),
        (-0.1, None, "budget: is -0.1; give a finite number of at least 0"),
        ([0.3, 0.3], [0, 2], r"groups\[1\]: is 2; give 0 to 1"),
        ([0.3, 0.3], [-1, 1], r"groups\[0\]: is -1; give 0 to 1"),
        ([0.3, 0.3], [1, 1], "budget: group 0 has a budget but no image"),
        ([0.3, 0.3], [0, 1, 0], r"groups: have shape \(3,\); give one for each of the 2 images"),
    ],
)
def test_invalid_budgets_and_groups_are_refused(budget, groups, said):
    with pytest.raises(DkicError, match=said):
        allocate(RATE, DISTORTION, budget, groups=groups)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": "abc"}, "rate: is str; give an array of real numbers on the CPU"),
        ({"rate": [[1, 2], [3]]}, "rate: is list; give an array of real numbers"),
        ({"rate": RATE.astype(complex)}, "rate: is complex128; give"),
        ({"rate": torch.zeros(2, 3, device="meta")}, "rate: is torch.float32; give .* on the CPU"),
        ({"budget": None}, "budget: is NoneType; give an array of real numbers"),
        ({"groups": [0.0, 1.0], "budget": [1, 1]}, "groups: have dtype float64; give integers"),
    ],
)
def test_other_types_are_refused(given, said):
    with pytest.raises(TypeError, match=said):
        allocate(**{"rate": RATE, "distortion": DISTORTION, "budget": 0.3} | given)


def test_an_unreachable_budget_names_the_difference():
    with pytest.raises(DkicError) as caught:
        allocate(RATE, DISTORTION, 0.12)
    said = "budget: 0.12 bpp in the mean is below the cheapest choice by 0.03 (20.0%); give at least 0.15"
    assert str(caught.value) == said
    with pytest.raises(DkicError, match="budget: 2 bytes is below the cheapest choice by 3 .*; give at least 5"):
        allocate(RATE * 10 + 1, DISTORTION, 2, kind="total_bytes")
    with pytest.raises(DkicError, match="budget of group 1: 0.1 bpp over all pixels is below .* by 0.1 .*; give at least 0.2"):
        allocate(RATE, DISTORTION, [0.3, 0.1], kind="total_bpp", pixels=[10, 20], groups=[0, 1])
    with pytest.raises(DkicError, match="give at least 0.25"):  # options that a limit excludes are not reachable
        allocate(RATE, DISTORTION, 0.2, min_quality=1)


def test_a_budget_of_0():
    assert allocate(RATE * [0, 1, 1], DISTORTION, 0).choice.tolist() == [0, 0]
