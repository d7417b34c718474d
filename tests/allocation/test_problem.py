"""What can't be allocated is refused in numbers, with its row and column."""

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
        (put(RATE, -0.5, 1, 2), DISTORTION, "row 1, column 2: rate is -0.5 .* a rate must be at least 0"),
        (put(RATE, NAN, 0, 1), DISTORTION, "row 0, column 1: rate is nan and distortion 0.2, but .* must be NaN in both"),
        (RATE, put(DISTORTION, NAN, 1, 0), "row 1, column 0: rate is 0.2 and distortion nan, but .* must be NaN in both"),
        (put(RATE, np.inf, 0, 0), DISTORTION, "row 0, column 0: rate is inf .* must be finite"),
        (RATE, put(DISTORTION, -np.inf, 1, 1), "row 1, column 1: rate is 0.3 and distortion -inf, but .* must be finite"),
        (put(RATE, NAN, 1), put(DISTORTION, NAN, 1), "row 1 has no option: each of its 3 columns is NaN"),
        (RATE[:, :2], DISTORTION, r"must both be \[N, M\] .* got \(2, 2\) and \(2, 3\)"),
        (RATE[0], DISTORTION[0], r"must both be \[N, M\] .* got \(3,\) and \(3,\)"),
        (RATE[:0], DISTORTION[:0], r"at least one image and one option, got \(0, 3\)"),
    ],
)
def test_bad_tables(rate, distortion, said):
    with pytest.raises(DkicError, match=said):
        allocate(rate, distortion, 0.3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "bpp"}, "kind must be one of mean_bpp, total_bytes, total_bpp, got 'bpp'"),
        ({"kind": "total_bpp"}, r"pixels \[N\] must be given with kind total_bpp"),
        ({"max_bytes": 10}, r"pixels \[N\] must be given with max_bytes"),
        ({"pixels": [100, 0]}, r"pixels\[1\] is 0.0, and must be at least 1"),
        ({"pixels": [100, NAN]}, r"pixels\[1\] is nan, and must be at least 1"),
        ({"pixels": [1, 2, 3]}, r"pixels must be a number or have one for each of the 2 images, got shape \(3,\)"),
        ({"weights": [-1, 1]}, r"weights\[0\] is -1.0, and must be at least 0"),
        ({"weights": [np.inf, 1]}, r"weights\[0\] is inf, and must be at least 0"),
        ({"max_distortion": NAN}, r"max_distortion\[0\] is nan, and must be a number"),
        ({"max_distortion": [0.4, 0.1]}, r"row 1 has no option left: of its 3, 3 above max_distortion"),
        ({"min_quality": 3}, "row 0 has no option left: of its 3, 3 below min_quality"),
        ({"min_quality": 1, "max_bytes": [9, 6], "pixels": 240}, "row 1 .* 1 below min_quality, 2 above max_bytes"),
        ({"names": ["a"]}, "names must have one for each of the 2 images, got 1"),
        ({"names": ["a", "b"], "min_quality": [0, 7]}, r"row 1 \(b\) has no option left"),
        ({"gap": -1}, "gap must be a number of at least 0, got -1"),
        ({"gap": NAN}, "gap must be a number of at least 0, got nan"),
        ({"gap": None}, "gap must be a number of at least 0, got None"),
        ({"time_limit": -1}, "time_limit must be None or at least 0 seconds, got -1"),
        ({"groups": [0, 0]}, r"budget must be \[G\], one for each group, got shape \(\)"),
    ],
)
def test_wrong_arguments(given, said):
    with pytest.raises(DkicError, match=said):
        allocate(RATE, DISTORTION, 0.3, **given)


@pytest.mark.parametrize(
    ("budget", "groups", "said"),
    [
        ([0.3, 0.3], None, r"budget must be one number without groups, got shape \(2,\)"),
        (NAN, None, "budget must be finite and at least 0, got nan"),
        (-0.1, None, "budget must be finite and at least 0, got -0.1"),
        ([0.3, 0.3], [0, 2], r"groups\[1\] is 2, but there are budgets for groups 0 to 1 alone"),
        ([0.3, 0.3], [-1, 1], r"groups\[0\] is -1, but"),
        ([0.3, 0.3], [1, 1], "group 0 has a budget but no image"),
        ([0.3, 0.3], [0, 1, 0], r"groups must have one for each of the 2 images, got shape \(3,\)"),
    ],
)
def test_wrong_budgets_and_groups(budget, groups, said):
    with pytest.raises(DkicError, match=said):
        allocate(RATE, DISTORTION, budget, groups=groups)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": "abc"}, "rate must be an array of real numbers in the CPU's memory, got str"),
        ({"rate": [[1, 2], [3]]}, "rate must be an array of real numbers .* got list"),
        ({"rate": RATE.astype(complex)}, "rate must be .* got complex128"),
        ({"rate": torch.zeros(2, 3, device="meta")}, "rate must be .* got torch.float32"),
        ({"budget": None}, "budget must be an array of real numbers .* got NoneType"),
        ({"groups": [0.0, 1.0], "budget": [1, 1]}, "groups must be an array of integers, got float64"),
    ],
)
def test_wrong_types(given, said):
    with pytest.raises(TypeError, match=said):
        allocate(**{"rate": RATE, "distortion": DISTORTION, "budget": 0.3} | given)


def test_a_budget_out_of_reach_says_by_how_much():
    with pytest.raises(DkicError) as caught:
        allocate(RATE, DISTORTION, 0.12)
    said = "the budget, 0.12 bpp in the mean, can't be met: the least reachable is 0.15, 0.03 (0.2 of it) more than the budget"
    assert str(caught.value) == said
    with pytest.raises(DkicError, match="the budget, 2 bytes, can't be met: the least reachable is 5, 3 "):
        allocate(RATE * 10 + 1, DISTORTION, 2, kind="total_bytes")
    with pytest.raises(DkicError, match="budget of group 1, 0.1 bpp over all pixels, can't be met: .* is 0.2, 0.1 "):
        allocate(RATE, DISTORTION, [0.3, 0.1], kind="total_bpp", pixels=[10, 20], groups=[0, 1])
    with pytest.raises(DkicError, match="least reachable is 0.25, "):  # what is not allowed is not reachable
        allocate(RATE, DISTORTION, 0.2, min_quality=1)


def test_a_budget_of_nothing():
    assert allocate(RATE * [0, 1, 1], DISTORTION, 0).choice.tolist() == [0, 0]
