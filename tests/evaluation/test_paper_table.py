"""Table 1: the allocation at a target compared with exhaustive search, and the three formats."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from evaluation_cases import measurement, measurements

from dkic.errors import DkicError
from dkic.evaluation.table import as_csv, as_latex, as_markdown, at_target


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by", ["lpips", "psnr"])
def test_a_cell_is_the_optimal_allocation(seed, by):
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.05, 0.1, (4, 1)) * np.array([1, 1.7, 3, 5])
    lpips = np.sort(rng.uniform(0.05, 0.5, (4, 4)))[:, ::-1]
    rows = measurements(rate, lpips)
    choices = [rows_ for rows_ in itertools.product(*(rows[4 * i : 4 * i + 4] for i in range(4)))]
    within = [c for c in choices if np.mean([row.bpp for row in c]) <= 0.15]
    best = min(np.mean([row.scores["lpips"] for row in c]) for c in within)
    cell = at_target(rows, 0.15, by)
    assert 0 < len(within) < len(choices)
    assert cell.lpips == pytest.approx(best) and cell.bpp <= 0.15 and cell.chosen in choices
    assert cell.bpp == pytest.approx(np.mean([row.bpp for row in cell.chosen]))
    assert cell.psnr == pytest.approx(30 - 20 * best) and not cell.note


def test_an_unreachable_target_is_an_empty_cell_with_the_reason():
    rows = measurements(np.array([[0.3, 0.5], [0.4, 0.6]]), np.array([[0.2, 0.1], [0.2, 0.1]]))
    cell = at_target(rows, 0.3)
    assert math.isnan(cell.bpp) and math.isnan(cell.lpips) and cell.chosen == ()
    assert cell.note == "c takes at least 0.350 bpp; lower targets are out of reach"
    assert at_target(rows, 0.35).bpp == pytest.approx(0.35)


def test_an_image_too_small_for_a_metric():
    rows = [measurement(image="a"), measurement(image="tiny", ms_ssim=math.nan, height=160)]
    cell = at_target(rows, 0.2)
    assert math.isnan(cell.ms_ssim) and cell.psnr == 30
    assert "tiny has a side below 161 pixels" in cell.note and cell.note in as_markdown([cell])
    with pytest.raises(DkicError, match="tiny: MS-SSIM is not defined for 100x160 pixels; allocate by another metric"):
        at_target(rows, 0.2, "ms_ssim")


def test_a_lossless_image_does_not_break_the_allocation():
    rows = [measurement(quality=1), measurement(quality=2, psnr=math.inf, bpp=9.0)]
    assert at_target(rows, 0.2, "psnr").psnr == 30
    assert at_target(rows, 9, "psnr").psnr == math.inf


CELLS = [
    at_target([measurement("a_b", bpp=0.0746, psnr=27.666, ms_ssim=0.91234, lpips=0.3634)], 0.075),
    at_target([measurement("a_b", bpp=0.15, encode_seconds=3, decode_seconds=0.02)], 0.15),
    at_target([measurement("c", bpp=0.09)], 0.075),
    at_target([measurement("c", bpp=0.09)], 0.15),
]


def test_markdown():
    lines = as_markdown(CELLS).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 12
    assert lines[2] == "| a_b | 0.075 | 0.363 | 27.67 | 0.9123 | 0.150 | 0.200 | 30.00 | 0.9000 | 2 | 0.26 |"
    assert lines[3] == "| c |  |  |  |  | 0.090 | 0.200 | 30.00 | 0.9000 | 1 | 0.5 |"
    assert lines[5] == "* c takes at least 0.090 bpp; lower targets are out of reach"


def test_csv():
    rows = list(csv.DictReader(io.StringIO(as_csv(CELLS).decode())))
    assert [(row["codec"], row["target_bpp"], row["bpp"]) for row in rows] == [
        ("a_b", "0.075", "0.0746"),
        ("a_b", "0.15", "0.15"),
        ("c", "0.075", ""),
        ("c", "0.15", "0.09"),
    ]
    assert float(rows[0]["psnr"]) == 27.666 and rows[2]["note"] and rows[0]["lpips_vgg"] == ""


def test_latex():
    text = as_latex(CELLS)
    assert r"\begin{tabular}{lrrrrrrrrrr}" in text and r"\multicolumn{4}{c}{0.075 bpp} & \multicolumn{4}{c}{0.15 bpp}" in text
    assert r"a\_b & 0.075 & 0.363 & 27.67 & 0.9123 & 0.150" in text and r"c &  &  &  &  & 0.090" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4 and all(row.count("&") == 10 for row in rows[1:])
    assert text.count("{") == text.count("}")
