"""`dkic measure`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from dkic.cli.inputs import each, identity, on_stdout, print_notes, with_folders_opened
from dkic.cli.messages import failing, listed
from dkic.cli.options import BACKGROUND, DEVICE, FORCE, ICC, INPUTS, MODEL, PATH, THREADS, TILE, write_to
from dkic.errors import one_line


@click.command(short_help="Measure rate and distortion of images at the qualities of a model.")
@INPUTS
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="TABLE",
    type=PATH,
    callback=write_to,
    help="Output: a .csv or .parquet file, or - for standard output.",
)
@MODEL
@click.option(
    "--distortion", type=click.Choice(["lpips", "mse"]), default="lpips", show_default=True, help="Distortion to measure."
)
@click.option("--ray", metavar="ADDRESS", help="Measure on a Ray cluster: auto, HOST:PORT, or local.")
@ICC
@BACKGROUND
@TILE
@DEVICE
@THREADS
@FORCE
def measure(
    inputs: tuple[str, ...],
    out: Path,
    model: str,
    distortion: Literal["lpips", "mse"],
    ray: str | None,
    icc: Literal["keep", "drop"],
    background: str | None,
    tile: int | None,
    device: str,
    force: bool,
) -> None:
    """Measure the bytes and distortion of images at every quality of a model, or every ninth of a variable-rate model.

    IN is a file or a folder of images. TABLE has a row for each image and quality, as `dkic allocate` reads it. The measurements
    are cached in $DKIC_CACHE or ~/.cache/dkic: an interrupted run can be resumed, and `dkic compress --target-bpp` uses them.

    With --ray, a cluster measures. Its machines need only dkic with the extra `cluster`: images and weights are sent to them.
    """
    from dkic.allocation.table import check_table, write_table

    if ray is not None and device != "cpu":
        raise click.UsageError("--ray: a cluster measures on CPUs; use --device cpu")
    inputs = tuple(dict.fromkeys(with_folders_opened(inputs)))
    if identity(out) is not None and identity(out) in map(identity, inputs):
        raise click.UsageError(f"-o {out}: is an input itself; give another name")
    check_table(out, force)
    from dkic.coding.codec import load
    from dkic.evaluation.measurement import Measurement
    from dkic.rate_control.cached_meter import CachedMeter

    codec = load(model, device)
    cached = CachedMeter(codec, distortion, tile, icc, background)
    measured: Callable[[str], tuple[str, list[Measurement]]] = cached.measure
    if ray is not None:
        from dkic.cli.progress import bar
        from dkic.rate_control.cluster import ClusterFailed, measured_on

        with failing(ClusterFailed):
            measured = measured_on(ray, cached, inputs, bar)
    columns: dict[str, list[Any]] = {name: [] for name in ("image", "quality", "bytes", "pixels", distortion)}

    def one(source: str, _target: Path) -> None:
        _, measurements = measured(source)
        print_notes(source, cached.notes.pop(source, ()))
        for point, measurement in zip(cached.points, measurements, strict=True):
            row = source, point.quality, measurement.bytes, measurement.pixels, measurement.scores[distortion]
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)

    status = each(inputs, [out] * len(inputs), one)
    if rows := len(columns["image"]):
        with failing():
            write_table(out, columns, force)
        qualities = [point.quality for point in cached.points]
        said = f"{out}: {rows:,} rows, {rows // len(qualities):,} images at quality {listed(qualities)}"
        click.echo(one_line(said), err=on_stdout(out))
    sys.exit(status)
