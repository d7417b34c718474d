"""The tables of the documentation and two charts, from the data in benchmarks/results.

    pytest benchmarks --benchmark-only --benchmark-json results.json
    python -m benchmarks.report results.json      # stores the medians in benchmarks/results, then writes the pages
    python -m benchmarks.report                   # writes the pages only

A table replaces the text between a page's lines `<!-- results/FILE -->` and `<!-- /results -->`. FILE is pytest-benchmark's JSON,
reduced to median and facts, or the CSV of a StoredTable. `<!-- results/FILE: PART -->` selects the benchmarks whose names begin
with PART, or the rows of a CSV whose first cell is PART. Results are stored as results.json, with two charts in docs/images, or
as results_gpu.json if they were all measured on a GPU (pytest's -k cuda); --name selects another name.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.charts import chart_growth, chart_ratios
from benchmarks.stored_table import StoredTable

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("benchmarks", "results")
SECTION = re.compile(r"(<!-- results/([^\s:]+)(?:: (.+?))? -->\n).*?(<!-- /results -->)", re.DOTALL)
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
    """The rows in Markdown: speedups over baselines, and the time by image size."""
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


def pages_of(root: Path) -> list[Path]:
    """The pages that may show stored results."""
    outside = (root / "README.md", root / "dkic" / "weights" / "MODEL_CARD.md")
    return [*filter(Path.exists, outside), *sorted((root / "docs").rglob("*.md"))]


def files_of(text: str) -> list[str]:
    """Names of the files that a page shows. Raises ValueError if a marker lacks its end."""
    sections = SECTION.findall(text)
    if not text.count("<!-- results/") == text.count("<!-- /results -->") == len(sections):
        raise ValueError("each line <!-- results/FILE --> needs a line <!-- /results --> after it, and before the next one")
    return [file for _, file, _, _ in sections]


def shown(file: str, part: str, text: str) -> str:
    """A stored file, or a part of it, in Markdown."""
    if file.endswith(".csv"):
        stored = StoredTable.parse(text)
        return (stored.rows_of(part) if part else stored).markdown()
    return table(rows_of({"benchmarks": [b for b in json.loads(text)["benchmarks"] if b["group"].startswith(part)]}))


def spliced(text: str, stored: dict[str, str]) -> str:
    """A page's text with its sections as in `stored`, the texts of files by name. Raises ValueError for what cannot be shown."""

    def section(found: re.Match) -> str:
        begin, file, part, end = found.groups()
        if file not in stored:
            raise ValueError(f"{FOLDER / file} is missing")
        try:
            return f"{begin}{shown(file, part or '', stored[file])}\n{end}"
        except ValueError as error:
            raise ValueError(f"{FOLDER / file}: {error}") from None

    files_of(text)
    return SECTION.sub(section, text)


def stored_in(root: Path) -> dict[str, str]:
    """The texts of the stored files by name."""
    return {path.name: path.read_text() for path in sorted((root / FOLDER).iterdir())} if (root / FOLDER).exists() else {}


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--name", help="Name of the stored file without .json; by default results, or results_gpu.")
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=ROOT, help="The repository.")
def main(results: Path | None, name: str | None, root: Path) -> None:
    """Store RESULTS, pytest-benchmark's JSON, and write the tables of the documentation and two charts."""
    pages = {path: path.read_text() for path in pages_of(root)}
    stored = stored_in(root)
    rows: list[Row] = []
    try:
        if results is not None:
            rows = rows_of(json.loads(results.read_text()))
            name = name or ("results_gpu" if all("gpu" in row.facts for row in rows) else "results")
            kept = [{"group": r.work, "stats": {"median": r.seconds}, "extra_info": r.facts} for r in rows]
            stored[f"{name}.json"] = json.dumps({"benchmarks": kept}, indent=1) + "\n"
    except ValueError as error:
        raise click.ClickException(f"{results}: {error}") from None
    texts = {}
    for path, text in pages.items():
        try:
            texts[path] = spliced(text, stored)
        except ValueError as error:
            raise click.ClickException(f"{path}: {error}") from None
    if results is not None:
        if not any(f"{name}.json" in files_of(text) for text in pages.values()):
            raise click.ClickException(f"{root}: no page has the line <!-- results/{name}.json -->")
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        (root / FOLDER / f"{name}.json").write_text(stored[f"{name}.json"])
        if name == "results":
            charts = root / "docs" / "images"
            charts.mkdir(parents=True, exist_ok=True)
            chart_ratios(works(rows), charts / "ratios.png")
            chart_growth(growths(rows), charts / "growth.png")
    for path, text in texts.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
