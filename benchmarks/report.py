"""The tables of docs/benchmarks.md and two charts, from pytest-benchmark's JSON.

    pytest benchmarks --benchmark-only --benchmark-json results.json
    python -m benchmarks.report results.json

The table replaces the text between the page's lines `<!-- benchmarks -->` and `<!-- /benchmarks -->`. The charts are written to
docs/images/, and the median and facts of every row to benchmarks/results/results.json. Results that were all measured on a GPU
(pytest's -k cuda) go between `<!-- benchmarks, GPU -->` and `<!-- /benchmarks, GPU -->`, and to results_gpu.json, without charts.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.charts import chart_growth, chart_ratios

ROOT = Path(__file__).resolve().parents[1]
CPU, GPU = "benchmarks", "benchmarks, GPU"  # names of the page's markers
OURS = "dkic"
MOST_DEVIATION = 0.25  # of a size's median from the fitted line


@dataclass(frozen=True)
class Row:
    """One timed call. seconds: the median; facts: pytest-benchmark's extra_info."""

    work: str
    implementation: str
    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """Seconds by pixels of one thing, and the line a + b * pixels through them. worst: the largest |seconds / line - 1|."""

    name: str
    pixels: tuple[int, ...]
    seconds: tuple[float, ...]
    a: float
    b: float
    worst: float


def rows_of(results: dict[str, Any]) -> list[Row]:
    """The rows of pytest-benchmark's JSON, in the order in which they ran. Raises ValueError if there is none of dkic."""
    rows = []
    for entry in results.get("benchmarks", []):
        facts = entry["extra_info"]
        if "implementation" in facts:
            rows.append(Row(entry["group"], facts["implementation"], facts.get("median", entry["stats"]["median"]), facts))
    if not any(row.implementation == OURS for row in rows):
        raise ValueError(f"the results hold no row of {OURS}'s; run `pytest benchmarks --benchmark-only --benchmark-json FILE`")
    return rows


def works(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by work, dkic's first, then the others in the order in which they ran; without those of the growth benchmark."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if "growth" not in row.facts:
            found.setdefault(row.work, []).append(row)
    return {
        work: sorted(group, key=lambda row: row.implementation != OURS)
        for work, group in found.items()
        if any(row.implementation == OURS for row in group)
    }


def line(pixels: Iterable[int], seconds: Iterable[float]) -> tuple[float, float]:
    """a and b of a + b * pixels by least squares of the deviations relative to `seconds`, so all sizes have equal weight."""
    n, t = np.array(list(pixels), float), np.array(list(seconds))
    a, b = np.linalg.lstsq(np.stack([1 / t, n / t], axis=1), np.ones(len(t)), rcond=None)[0]
    return float(a), float(b)


def growths(rows: Iterable[Row]) -> list[Growth]:
    """A fitted line for each work that was timed at three or more sizes."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if "growth" in row.facts:
            points.setdefault(row.facts["growth"], []).append((row.facts["pixels"], row.seconds))
    found = []
    for name, of_name in points.items():
        if len(of_name) >= 3:
            pixels, seconds = zip(*sorted(of_name), strict=True)
            a, b = line(pixels, seconds)
            worst = max(abs(t / (a + b * n) - 1) for n, t in zip(pixels, seconds, strict=True))
            found.append(Growth(name, pixels, seconds, a, b, worst))
    return found


def time_text(seconds: float) -> str:
    """Three digits, with a unit that fits."""
    seconds = float(f"{seconds:.3g}")  # first, so that no 999.9 ms becomes 1000
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size or unit == "µs":
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    raise AssertionError


def result_notes(facts: dict[str, Any]) -> list[str]:
    """Notes on a row's result."""
    texts = [f"{facts['bytes']:,} bytes"] if "bytes" in facts else []
    texts += [f"{facts['over_ideal']:+.2%} over the ideal size"] if "over_ideal" in facts else []
    texts += [f"{facts['examples_per_s']:.3g} examples/s"] if "examples_per_s" in facts else []
    if "gap" in facts:  # None: no result
        texts.append("nothing found" if facts["gap"] is None else f"gap {facts['gap']:.1g}" if facts["gap"] else "optimal")
    return texts


def notes(facts: dict[str, Any]) -> str:
    """Notes on a row of dkic."""
    texts = result_notes(facts)
    if "gb_per_s" in facts:
        texts.append(f"{facts['gb_per_s']:.3g} GB/s, {facts['share_of_copy_bandwidth']:.0%} of copy bandwidth")
    if "times_roofline" in facts:
        texts.append(f"{facts['times_roofline']:.3g}x the roofline")
    if "peak_memory" in facts:
        texts.append(f"peak memory {facts['peak_memory'] / 1e9:.2f} GB")
    return "; ".join(texts)


def bracketed(texts: list[str]) -> list[str]:
    return [f"({'; '.join(texts)})"] if texts else []


def times(own: Row, other: Row) -> str:
    """Speedup of dkic, to three digits."""
    ratio = other.seconds / own.seconds
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def table(rows: list[Row]) -> str:
    """The page's text between the markers."""
    ours = next(row.facts for row in rows if row.implementation == OURS)
    threads = "1 thread" if ours["threads"] == 1 else f"{ours['threads']} threads"
    machine = ", ".join(str(ours[name]) for name in ("gpu", "cpu") if name in ours)
    lines = [
        f"Medians on {machine}, {threads}, torch {ours['torch']}, commit {ours['commit']}:",
        "",
        f"| benchmark | {OURS} | notes | baseline | speedup |",
        "| --- | --- | --- | --- | --- |",
    ]
    for work, (own, *others) in works(rows).items():
        cells = [
            (" ".join([other.implementation, time_text(other.seconds), *bracketed(result_notes(other.facts))]), times(own, other))
            for other in others
        ]
        first, *rest = cells or [("", "")]
        lines.append(f"| {work} | {time_text(own.seconds)} | {notes(own.facts)} | {first[0]} | {first[1]} |")
        lines += [f"| | | | {beside} | {ratio} |" for beside, ratio in rest]
    if found := growths(rows):
        lines += [
            "",
            "Time by image size, 256x256 to 2048x2048, fitted as a + b * pixels:",
            "",
            f"| benchmark | a | b, per megapixel | largest deviation (goal: at most {MOST_DEVIATION:.0%}) |",
            "| --- | --- | --- | --- |",
        ]
        lines += [f"| {g.name} | {time_text(g.a)} | {time_text(g.b * 1e6)} | {g.worst:.0%} |" for g in found]
    return "\n".join(lines)


def splice(text: str, inside: str, name: str = CPU) -> str:
    """`text` with the part between the markers replaced. Raises ValueError unless each marker appears once, in order."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"it needs the lines {begin} and {end}, once each and in this order")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{inside}\n{end}{rest.split(end)[1]}"


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=ROOT / "docs" / "benchmarks.md")
@click.option("--charts", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "docs" / "images")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "benchmarks" / "results")
def main(results: Path, page: Path, charts: Path, folder: Path) -> None:
    """Write RESULTS, pytest-benchmark's JSON, into a page of the documentation and two charts."""
    try:
        rows = rows_of(json.loads(results.read_text()))
    except ValueError as error:
        raise click.ClickException(f"{results}: {error}") from None
    on_gpu = all("gpu" in row.facts for row in rows)
    try:
        text = splice(page.read_text(), table(rows), GPU if on_gpu else CPU)
    except ValueError as error:
        raise click.ClickException(f"{page}: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    kept = [{"group": r.work, "stats": {"median": r.seconds}, "extra_info": r.facts} for r in rows]
    (folder / f"results{'_gpu' if on_gpu else ''}.json").write_text(json.dumps({"benchmarks": kept}, indent=1) + "\n")
    if not on_gpu:
        charts.mkdir(parents=True, exist_ok=True)
        chart_ratios(works(rows), charts / "ratios.png")
        chart_growth(growths(rows), charts / "growth.png")
    page.write_text(text)


if __name__ == "__main__":
    main()
