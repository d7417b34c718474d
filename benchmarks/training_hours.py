"""Progress of a training by core-hours: mean metrics over photographs, each encoded to the same bits per pixel.

    python -m benchmarks.training_hours measure RUN/small.safetensors sets/validation --network r2 --leg MSE --hours 0.56
    python -m benchmarks.training_hours draw

`measure` adds a row for each rate to benchmarks/results/training_hours.csv, and `draw` plots the file's rows as
docs/images/training_hours.png. A network is trained in legs; `hours` are those of the leg alone, the file has their sum.
"""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure

import dkic
from benchmarks.source_commit import source_commit
from benchmarks.stored_table import StoredTable
from dkic.coding.codec import Codec
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.doctor import processor
from dkic.errors import DkicError
from dkic.evaluation.metric_registry import METRICS, Compare, load_metrics
from dkic.evaluation.metrics import batch

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "training_hours.csv"
CHART = ROOT / "docs" / "images" / "training_hours.png"
RATES = (0.075, 0.15, 0.3, 0.6)
COLUMNS = ("target", "network", "leg", "core-hours", "bits per pixel", *(metric.label for metric in METRICS.values()))


@click.group()
def main() -> None:
    """Metrics of a training by core-hours."""


@main.command()
@click.argument("model")
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--network", required=True, help="Name of the network; its legs are drawn as one curve.")
@click.option("--leg", required=True, help="What was trained.")
@click.option("--hours", type=click.FloatRange(min=0), required=True, help="Core-hours of the leg.")
def measure(model: str, photos: Path, network: str, leg: str, hours: float) -> None:
    """Add the means of a MODEL over the photographs in a folder to the table."""
    try:
        codec, metrics = dkic.load(model), load_metrics(METRICS)
        images = [read_image(path).pixels for path in images_in(photos).images]
        found = {rate: means(codec, images, rate, metrics) for rate in RATES}
    except DkicError as error:
        raise click.ClickException(str(error)) from None
    table = StoredTable.parse(TABLE.read_text())
    total = hours + max((float(hours) for _, name, _, hours, *_ in table.rows if name == network), default=0.0)
    rows = []
    for rate, values in found.items():
        rows.append((f"{rate:g}", network, leg, f"{total:.2f}", *texts(values)))
        click.echo(", ".join(f"{name} {text}" for name, text in zip(COLUMNS, rows[-1], strict=True)))
    facts = {"machine": processor(), "versions": f"PyTorch {torch.__version__}", "commit": source_commit()}
    TABLE.write_text(replace(table, rows=table.rows + tuple(rows), **facts).text())


@main.command()
def draw() -> None:
    """Plot the table."""
    table = StoredTable.parse(TABLE.read_text())
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    charts = figure.subplots(2, (len(METRICS) + 1) // 2).flat
    for metric, axes in zip(METRICS.values(), charts, strict=True):
        for i, rate in enumerate(RATES):
            for network in dict.fromkeys(row[1] for row in table.rows):
                points = [
                    (float(row[3]), float(row[COLUMNS.index(metric.label)]))
                    for row in table.rows
                    if row[:2] == (f"{rate:g}", network)
                ]
                style = "o-" if network == table.rows[-1][1] else ".--"
                axes.plot(
                    *np.transpose(points), style, color=f"C{i}", linewidth=1, markersize=4, label=f"{rate:g} bpp, {network}"
                )
        axes.set_title(f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)", fontsize=9)
        axes.set_xlabel("core-hours", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(CHART, dpi=110)


def texts(values: dict[str, float]) -> list[str]:
    """Cells of bits per pixel and metrics."""
    digits = {"bpp": 3} | {name: metric.digits for name, metric in METRICS.items()}
    return [f"{value:.{digits[name]}f}" for name, value in values.items()]


def means(codec: Codec, images: list[np.ndarray], rate: float, metrics: dict[str, Compare]) -> dict[str, float]:
    """Means of bits per pixel and all metrics. An image whose rate is out of reach is encoded at the lowest quality."""
    found = []
    for pixels in images:
        data = coded(codec, pixels, rate)
        pair = batch(pixels, codec.decompress(data, "numpy"))
        found.append([len(data) * 8 / pixels[..., 0].size, *(metric(pair[:1], pair[1:]).item() for metric in metrics.values())])
    return dict(zip(("bpp", *metrics), np.mean(found, axis=0).tolist(), strict=True))


def coded(codec: Codec, pixels: np.ndarray, rate: float) -> bytes:
    try:
        return codec.compress(pixels, target_bpp=rate)
    except DkicError:  # the lowest quality needs more
        return codec.compress(pixels, codec.qualities[0])


if __name__ == "__main__":
    main()
