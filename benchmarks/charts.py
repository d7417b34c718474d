"""The two charts of report.py, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from benchmarks.report import Growth, Row

OUR_COLOR, OTHER_COLOR = "#1f6fb4", "#8c8c8c"


def chart_ratios(works: dict[str, list[Row]], path: Path) -> None:
    """Speed of all implementations relative to the peer, on a log scale, one line per work (rows: dkic, the peer, others)."""
    compared = [(work, group) for work, group in works.items() if len(group) > 1]
    figure = Figure(figsize=(10, 1.3 + 0.42 * len(compared)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(1, color="black", linewidth=0.8)
    for place, (_, (ours, peer, *others)) in enumerate(compared):
        for i, row in enumerate((ours, *others)):
            speed = peer.seconds / row.seconds
            color = OUR_COLOR if row is ours else OTHER_COLOR
            axes.plot(speed, place, "o", color=color, markersize=9 if row is ours else 5)
            label = f"{speed:.3g}x" if row is ours else row.implementation
            beside = (0, 7 if i % 2 == 0 else -13)  # neighbors' labels do not meet
            axes.annotate(label, (speed, place), beside, textcoords="offset points", ha="center", fontsize=7, color=color)
        axes.plot([1, peer.seconds / ours.seconds], [place, place], color=OUR_COLOR, linewidth=1.5, zorder=0)
    axes.set_yticks(range(len(compared)), [f"{work}\nbeside {group[1].implementation}" for work, group in compared], fontsize=8)
    axes.set_ylim(len(compared) - 0.4, -0.6)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xlabel("speed, the peer = 1 (further right is faster; blue: dkic)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def chart_growth(found: list[Growth], path: Path) -> None:
    """Seconds by pixels, measured and on the fitted line, both on log scales."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for i, growth in enumerate(found):
        color = f"C{i}"
        n = np.geomspace(growth.pixels[0], growth.pixels[-1], 100)
        fitted = growth.a + growth.b * n
        axes.plot(n[fitted > 0], fitted[fitted > 0], color=color, linewidth=1)
        axes.plot(growth.pixels, growth.seconds, "o", color=color, label=f"{growth.name} (within {growth.worst:.0%})")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("pixels of the image")
    axes.set_ylabel("seconds")
    if found:
        ticks = sorted({n for growth in found for n in growth.pixels})
        axes.set_xticks(ticks, [f"{round(n**0.5)}²" for n in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, title="dots: medians; lines: a + b * pixels")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
