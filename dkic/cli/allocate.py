"""`dkic allocate`."""

from pathlib import Path
from typing import Any

import click

from dkic.cli.inputs import identity, on_stdout
from dkic.cli.messages import failing, print_facts
from dkic.cli.options import FORCE, PATH, read_from, write_to
from dkic.streams import is_stream


@click.command(short_help="Choose a quality for each image within a budget.")
@click.argument("table", metavar="TABLE", type=PATH, callback=read_from)
@click.option("-t", "--target-bpp", type=float, metavar="BPP", help="Budget: bits per pixel, all bits divided by all pixels.")
@click.option("--mean", is_flag=True, help="With --target-bpp: bound the mean of the images' bits per pixel instead.")
@click.option("--total-bytes", type=float, metavar="N", help="Budget: total bytes.")
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="PLAN",
    type=PATH,
    callback=write_to,
    help="Output: a CSV file, or - for standard output.",
)
@click.option("--distortion", default="lpips", show_default=True, help="Column of the distortion; its sum is minimized.")
@click.option("--min-quality", type=float, help="Lower bound of each image's quality.")
@click.option("--max-bytes", type=float, help="Upper bound of each image's bytes.")
@click.option("--max-distortion", type=float, help="Upper bound of each image's distortion.")
@click.option("--gap", type=float, default=1e-6, show_default=True, help="Relative optimality gap; 0 solves exactly.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Stop the solver after this time, with the best choice so far.")
@FORCE
def allocate(table: Path, target_bpp: float | None, mean: bool, total_bytes: float | None, out: Path, **options: Any) -> None:
    """Choose a quality for each image, for the least total distortion within a budget, with a bound on the optimum.

    TABLE is CSV or Parquet and has a row for each image and quality, with the columns image, quality, bytes, lpips (or the name
    given by --distortion), and pixels or width and height. PLAN contains the chosen row of each image. TABLE may be - for
    standard input; streams are CSV.
    """
    from dkic.allocation.problem import Kind
    from dkic.allocation.table import plan

    if (target_bpp is None) == (total_bytes is None):
        raise click.UsageError("--target-bpp, --total-bytes: give exactly one of them")
    if mean and target_bpp is None:
        raise click.UsageError("--mean: needs --target-bpp")
    if out.suffix.lower() != ".csv" and not is_stream(out):
        raise click.UsageError(f"-o {out}: the plan is a CSV file; its name must end in .csv")
    if identity(out) is not None and identity(out) == identity(table):
        raise click.UsageError(f"-o {out}: is TABLE itself; give another name")
    kind: Kind = "total_bytes" if target_bpp is None else "mean_bpp" if mean else "total_bpp"
    budget = total_bytes if target_bpp is None else target_bpp
    assert budget is not None
    with failing():
        print_facts(plan(table, out, kind=kind, budget=budget, **options), err=on_stdout(out))
