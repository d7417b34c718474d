"""`dkic measure`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from dkic.cli.inputs import each, identity, on_stdout, tell_notes, with_folders_opened
from dkic.cli.messages import failing, listed
from dkic.cli.options import BACKGROUND, DEVICE, FORCE, ICC, INPUTS, MODEL, PATH, THREADS, TILE, write_to
from dkic.errors import one_line


@click.command(short_help="Tabulate what pictures cost at every quality, for `dkic allocate`.")
@INPUTS
@click.option("-o", "--out", required=True, metavar="TABLE", type=PATH, callback=write_to, help="A .csv or .parquet file, or -.")
@MODEL
@click.option("--distortion", type=click.Choice(["lpips", "mse"]), default="lpips", show_default=True, help="What is measured.")
@click.option("--ray", metavar="ADDRESS", help="Measure on this Ray cluster: auto, HOST:PORT, or local.")
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
    """Measure bytes and distortion of pictures, or of those in folders IN, at every quality of a model.

    TABLE gets a row for each picture and quality, as `dkic allocate` takes it. What is measured is kept in $DKIC_CACHE or
    ~/.cache/dkic, so that a run that was stopped goes on where it was, and `dkic compress --target-bpp` finds it there.

    With --ray a cluster measures, whose machines need dkic with its extra `cluster` and nothing else: pictures and weights are
    sent to them from this one.
    """
    from dkic.allocation.table import check_table, write_table

    if ray is not None and device != "cpu":
        raise click.UsageError("--ray: a cluster measures on CPUs, so --device must be cpu")
    inputs = tuple(dict.fromkeys(with_folders_opened(inputs)))
    if identity(out) is not None and identity(out) in map(identity, inputs):
        raise click.UsageError(f"-o: {out} is an input itself")
    check_table(out, force)
    from dkic.coding.codec import load
    from dkic.evaluation.measurement import Measurement
    from dkic.rate_control.cached_meter import CachedMeter

    codec = load(model, device)
    cached = CachedMeter(codec, distortion, tile, icc, background)
    measured: Callable[[str], tuple[str, list[Measurement]]] = cached.measure
    if ray is not None:
        from dkic.rate_control.cluster import ClusterFailed, measured_on

        with failing(ClusterFailed):
            measured = measured_on(ray, cached, inputs)
    columns: dict[str, list[Any]] = {name: [] for name in ("image", "quality", "bytes", "pixels", distortion)}

    def one(source: str, _target: Path) -> None:
        _, options = measured(source)
        tell_notes(source, cached.notes.pop(source, ()))
        for level, option in zip(cached.points, options, strict=True):
            row = source, level.quality, option.bytes, option.pixels, option.scores[distortion]
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)

    status = each(inputs, [out] * len(inputs), one)
    if rows := len(columns["image"]):
        with failing():
            write_table(out, columns, force)
        levels = [level.quality for level in cached.points]
        said = f"{out}: {rows:,} rows, {rows // len(levels):,} pictures at quality {listed(levels)}"
        click.echo(one_line(said), err=on_stdout(out))
    sys.exit(status)
