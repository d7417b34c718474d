"""The two charts of report.py, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from benchmarks.report import Growth, Row

OUR_COLOUR, PEER_COLOUR, OTHER_COLOUR = "#1f6fb4", "#8c8c8c", "#d9d9d9"


def chart_ratios(works: dict[str, list[Row]], path: Path) -> None:
    """Speed of every implementation of a work on a log scale, its peer being 1. Works: ours first, then the peer, then others."""
    compared = {work: group for work, group in works.items() if len(group) > 1}
    bars: list[tuple[str, float, str]] = []
    for work, (ours, peer, *others) in compared.items():
        bars.append((f"{work}\n{ours.implementation}", peer.seconds / ours.seconds, OUR_COLOUR))
        bars.append((f"{peer.implementation} = 1", 1.0, PEER_COLOUR))
        bars += [(other.implementation, peer.seconds / other.seconds, OTHER_COLOUR) for other in others]
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(bars))[::-1]
    speeds = [speed for _, speed, _ in bars]
    axes.barh(places, np.array(speeds) - 1, left=1, height=0.7, color=[colour for _, _, colour in bars])
    for place, speed in zip(places, speeds, strict=True):
        axes.annotate(
            f"{speed:.3g}",
            (speed, place),
            xytext=(4 if speed >= 1 else -4, 0),
            textcoords="offset points",
            ha="left" if speed >= 1 else "right",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, [label for label, _, _ in bars], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(speeds + [1]) / 3, max(speeds + [1]) * 3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xlabel("speed, the peer = 1 (further right is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def chart_growth(found: list[Growth], path: Path) -> None:
    """Seconds by pixels, measured and on the fitted line, both on log scales."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for i, growth in enumerate(found):
        colour = f"C{i}"
        n = np.geomspace(growth.pixels[0], growth.pixels[-1], 100)
        fitted = growth.a + growth.b * n
        axes.plot(n[fitted > 0], fitted[fitted > 0], color=colour, linewidth=1)
        axes.plot(growth.pixels, growth.seconds, "o", color=colour, label=f"{growth.name} (within {growth.worst:.0%})")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pixels of the picture")
    axes.set_ylabel("seconds")
    if found:
        ticks = sorted({n for growth in found for n in growth.pixels})
        axes.set_xticks(ticks, [f"{round(n**0.5)}²" for n in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, title="dots: medians; lines: a + b * pixels")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
