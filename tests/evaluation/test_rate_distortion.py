"""Curves and BD-rate compared with known values."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import measurements
from PIL import Image

from dkic.evaluation.rate_distortion import Curve, bd_lines, bd_rate, chart, curves

RATE = np.array([0.1, 0.2, 0.4, 0.8, 1.6])
VALUES = {
    "psnr": np.array([25.0, 28, 31, 34, 37]),
    "ms_ssim": np.array([0.8, 0.9, 0.95, 0.975, 0.99]),
    "lpips": np.array([0.5, 0.35, 0.2, 0.1, 0.05]),
    **dict.fromkeys(("lpips_vgg", "dists", "ssimulacra2"), np.full(5, np.nan)),
}
ANCHOR = Curve("anchor", RATE, VALUES)


def test_curves_are_means_over_the_images():
    rate, lpips = np.array([[0.1, 0.3], [0.3, 0.7]]), np.array([[0.4, 0.2], [0.2, 0.1]])
    first, second = curves(measurements(rate, lpips, "x") + measurements(rate[:, ::-1], lpips[:, ::-1], "y"))
    assert (first.codec, second.codec) == ("x", "y")
    for curve in (first, second):  # in rising order of rate, whatever the order of the qualities
        assert curve.bpp == pytest.approx([0.2, 0.5]) and curve.values["lpips"] == pytest.approx([0.3, 0.15])
        assert curve.values["psnr"] == pytest.approx([24, 27]) and np.isnan(curve.values["lpips_vgg"]).all()


@pytest.mark.parametrize("metric", ["psnr", "ms_ssim", "lpips"])
@pytest.mark.parametrize("factor", [0.5, 1, 1.25])
def test_bd_rate_of_a_constant_factor(metric, factor):
    other = Curve("other", factor * RATE, VALUES)
    percent, remark = bd_rate(other, ANCHOR, metric)
    assert percent == pytest.approx(100 * (factor - 1), abs=1e-6) and not remark


def test_bd_rate_of_straight_lines():
    """PSNR = 10 log2(rate) against 5 log2(rate): from 5 to 10 dB the mean of log2 of the rates' ratio is -0.75."""
    anchor = Curve("a", 2.0 ** np.arange(1, 6), VALUES | {"psnr": 5.0 * np.arange(1, 6)})
    other = Curve("o", 2.0 ** np.arange(0.5, 3, 0.5), VALUES | {"psnr": 10 * np.arange(0.5, 3, 0.5)})
    percent, _ = bd_rate(other, anchor, "psnr")
    mean = -np.mean([5, 25]) / 10  # of value/10 - value/5
    assert percent == pytest.approx(100 * (2**mean - 1), abs=1e-6)


def test_dominated_points_are_ignored():
    bumpy = Curve("b", np.insert(RATE, 2, 0.3), {m: np.insert(v, 2, v[1] if m != "lpips" else 0.4) for m, v in VALUES.items()})
    for metric in ("psnr", "ms_ssim", "lpips"):
        assert bd_rate(bumpy, ANCHOR, metric)[0] == pytest.approx(0, abs=1e-9)


def test_curves_without_a_bd_rate():
    few = Curve("few", RATE[:3], {metric: values[:3] for metric, values in VALUES.items()})
    percent, remark = bd_rate(few, ANCHOR, "psnr")
    assert math.isnan(percent) and remark == "few has 3 of the 4 monotonic points of PSNR that are needed"
    far = replace(ANCHOR, codec="far", values=VALUES | {"psnr": VALUES["psnr"] + 50})
    percent, remark = bd_rate(far, ANCHOR, "psnr")
    assert math.isnan(percent) and remark == "far and anchor have no common range of PSNR"
    near = replace(ANCHOR, codec="near", values=VALUES | {"psnr": VALUES["psnr"] + 8})
    percent, remark = bd_rate(near, ANCHOR, "psnr")
    assert percent < -70 and remark == "near and anchor share 20% of their range of PSNR"
    lines, remarks = bd_lines([ANCHOR, few, near], "anchor")
    assert lines[:2] == [["BD-rate against anchor, %", "LPIPS", "PSNR", "MS-SSIM"], ["anchor", "+0.0", "+0.0", "+0.0"]]
    assert lines[2] == ["few", "", "", ""] and "few has 3 of the 4 monotonic points of LPIPS that are needed" in remarks


def test_charts():
    found = [ANCHOR, Curve("dkic:tiny", RATE[:1], {metric: values[:1] for metric, values in VALUES.items()})]
    assert Image.open(io.BytesIO(chart(found, "psnr", "png"))).format == "PNG"
    svg = chart(found, "lpips", "svg").decode()
    assert "dkic:tiny" in svg and "anchor" in svg and "LPIPS (lower is better)" in svg
    assert svg.encode() == chart(found, "lpips", "svg") != chart(found, "psnr", "svg")
