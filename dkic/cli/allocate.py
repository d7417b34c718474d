"""`dkic allocate`."""

from pathlib import Path
from typing import Any

import click

from dkic.cli.inputs import identity, on_stdout
from dkic.cli.messages import failing, print_facts
from dkic.cli.options import FORCE, PATH, read_from, write_to
from dkic.streams import is_stream


@click.command(short_help="Choose a quality for each picture within a budget.")
@click.argument("table", metavar="TABLE", type=PATH, callback=read_from)
@click.option("-t", "--target-bpp", type=float, metavar="BPP", help="Budget: all bits divided by all pixels.")
@click.option("--mean", is_flag=True, help="With --target-bpp: the mean of the pictures' own bits per pixel.")
@click.option("--total-bytes", type=float, metavar="N", help="Budget: the sum of all bytes.")
@click.option("-o", "--out", required=True, metavar="PLAN", type=PATH, callback=write_to, help="A CSV file, or -.")
@click.option("--distortion", default="lpips", show_default=True, help="The column whose sum is to be the least.")
@click.option("--min-quality", type=float, help="The least quality that any picture gets.")
@click.option("--max-bytes", type=float, help="The most bytes that any picture takes.")
@click.option("--max-distortion", type=float, help="The most distortion that any picture gets.")
@click.option("--gap", type=float, default=1e-6, show_default=True, help="How far from the optimum, relative; 0 for it.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Stop the solver after this time, with the gap it has.")
@FORCE
def allocate(table: Path, target_bpp: float | None, mean: bool, total_bytes: float | None, out: Path, **options: Any) -> None:
    """Choose a quality for each picture, for the least distortion within a budget, with a proof.

    TABLE, CSV or Parquet, has a row for each picture and quality, with the columns image, quality, bytes, lpips (or what
    --distortion names), and pixels, or width and height. PLAN gets the row that is chosen of each picture. As TABLE, - is
    standard input, and as PLAN standard output; both are CSV.
    """
    from dkic.allocation.problem import Kind
    from dkic.allocation.table import plan

    if (target_bpp is None) == (total_bytes is None):
        raise click.UsageError("give either --target-bpp or --total-bytes")
    if mean and target_bpp is None:
        raise click.UsageError("--mean goes with --target-bpp")
    if out.suffix.lower() != ".csv" and not is_stream(out):
        raise click.UsageError(f"-o: the plan is CSV, so its name must end in .csv, and is {out}")
    if identity(out) is not None and identity(out) == identity(table):
        raise click.UsageError(f"-o: {out} is the table itself")
    kind: Kind = "total_bytes" if target_bpp is None else "mean_bpp" if mean else "total_bpp"
    budget = total_bytes if target_bpp is None else target_bpp
    assert budget is not None
    with failing():
        print_facts(plan(table, out, kind=kind, budget=budget, **options), err=on_stdout(out))
