"""Rate-distortion curves and BD-rates (Bjontegaard 2001; Akima interpolation)."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from dkic.evaluation.measured_files import MeasuredFile
from dkic.evaluation.metric_registry import METRICS

_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Curve:
    """Means over the images at each quality of a codec, in rising order of rate. values: by metric."""

    codec: str
    bpp: np.ndarray
    values: dict[str, np.ndarray]


def curves(rows: Sequence[MeasuredFile]) -> list[Curve]:
    """The curve of each codec."""
    found = []
    for codec in dict.fromkeys(row.codec for row in rows):
        own = [row for row in rows if row.codec == codec]
        at = [[row for row in own if row.quality == quality] for quality in dict.fromkeys(row.quality for row in own)]
        means = {name: np.array([np.mean([row.value(name) for row in some]) for some in at]) for name in ("bpp", *METRICS)}
        order = np.argsort(means["bpp"])
        found.append(Curve(codec, means["bpp"][order], {name: means[name][order] for name in METRICS}))
    return found


def bd_rate(curve: Curve, anchor: Curve, metric: str) -> tuple[float, str]:
    """BD-rate in percent, positive if the codec takes more bits than the anchor, or NaN; and a remark, or "".

    MS-SSIM is converted to dB, -10 log10(1 - MS-SSIM). The mean is over the range that both curves cover.
    """
    from bjontegaard import bd_rate as between

    both = [_rising(c, metric) for c in (anchor, curve)]
    for c, (_, values) in zip((anchor, curve), both, strict=True):
        if len(values) < 4:
            return math.nan, f"{c.codec} has {len(values)} of the 4 monotonic points of {METRICS[metric].label} that are needed"
    (anchor_rate, anchor_values), (rate, values) = both
    low, high = max(anchor_values[0], values[0]), min(anchor_values[-1], values[-1])
    if high <= low:
        return math.nan, f"{curve.codec} and {anchor.codec} have no common range of {METRICS[metric].label}"
    share = (high - low) / (max(anchor_values[-1], values[-1]) - min(anchor_values[0], values[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a small overlap, which is in the remark
        percent = between(anchor_rate, anchor_values, rate, values, "akima", require_matching_points=False, min_overlap=0)
    remark = (
        f"{curve.codec} and {anchor.codec} share {share:.0%} of their range of {METRICS[metric].label}" if share < 0.5 else ""
    )
    return float(percent), remark


def bd_lines(found: Sequence[Curve], anchor: str) -> tuple[list[list[str]], list[str]]:
    """The header and a row for each codec, with a column for each metric; and the remarks."""
    against = next(curve for curve in found if curve.codec == anchor)
    metrics = measured(found)
    lines, remarks = [[f"BD-rate against {anchor}, %", *(METRICS[m].label for m in metrics)]], dict[str, None]()
    for curve in found:
        line = [curve.codec]
        for metric in metrics:
            percent, remark = bd_rate(curve, against, metric)
            line.append("" if math.isnan(percent) else f"{percent:+.1f}")
            remarks |= {remark: None} if remark else {}
        lines.append(line)
    return lines, list(remarks)


def measured(found: Sequence[Curve]) -> list[str]:
    """The metrics that were computed."""
    return [metric for metric in METRICS if any(np.isfinite(curve.values[metric]).any() for curve in found)]


def chart(found: Sequence[Curve], metric: str, file_format: str) -> bytes:
    """Chart of all curves of a metric as "png" or "svg"; equal curves give equal bytes."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for i, curve in enumerate(found):
        style: dict[str, Any] = {"color": f"C{i % 10}", "linestyle": _DASHES[i // 10 % len(_DASHES)]}
        marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(curve.bpp) > 1 else {"marker": "*", "markersize": 12}
        axes.plot(curve.bpp, curve.values[metric], linewidth=1.4, label=curve.codec, **style, **marker)
    axes.set_xlabel("bits per pixel, mean over the images")
    axes.set_ylabel(
        {"psnr": "PSNR, dB"}.get(metric, METRICS[metric].label)
        + ("" if METRICS[metric].higher_is_better else " (lower is better)")
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file = BytesIO()
    with rc_context({"svg.hashsalt": "dkic", "svg.fonttype": "none"}):
        figure.savefig(file, format=file_format, dpi=140, metadata={"Date": None} if file_format == "svg" else None)
    return file.getvalue()


def _rising(curve: Curve, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rates and values, converted so that higher is better, without dominated points."""
    values = curve.values[metric]
    if metric == "ms_ssim":
        values = -10 * np.log10(np.maximum(1 - values, 1e-12))
    elif not METRICS[metric].higher_is_better:
        values = -values
    best = np.maximum.accumulate(np.concatenate([[-math.inf], values[:-1]]))
    kept = np.isfinite(values) & (values > best)
    return curve.bpp[kept], values[kept]
