"""Curves of training runs, from their log.csv.

    python -m benchmarks.training_curves NAME=RUN/log.csv ... -o training.png

A chart each of rate, LPIPS and PSNR by the step, smoothed, since a step's crops are few.
"""

import csv
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

SHOWN = {"quantized_bpp": "bits per pixel", "lpips": "LPIPS", "psnr": "PSNR, dB"}
SMOOTHED = 40  # steps


def columns(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise click.ClickException(f"{path}: can't be read ({error.strerror})") from None
    if missing := {"step", *SHOWN} - set(rows[0] if rows else ()):
        raise click.ClickException(f"{path}: not the log of a recipe's run (it has no {min(missing)})")
    return {name: np.array([float(row[name]) for row in rows]) for name in ("step", *SHOWN)}


def smoothed(values: np.ndarray) -> np.ndarray:
    """Means of SMOOTHED steps; of fewer at both ends."""
    kernel = np.ones(min(SMOOTHED, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="NAME=LOG...")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(runs: tuple[str, ...], out: Path) -> None:
    """Plot the logs of training runs, a color each."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    charts = figure.subplots(1, len(SHOWN))
    for run in runs:
        name, equals, path = run.partition("=")
        if not equals:
            raise click.UsageError(f"give NAME=LOG, not {run}")
        log = columns(Path(path))
        for axes, shown in zip(charts, SHOWN, strict=True):
            axes.plot(log["step"], smoothed(log[shown]), linewidth=1.2, label=name)
    for axes, label in zip(charts, SHOWN.values(), strict=True):
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    charts[0].legend(fontsize=8, frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
