"""`dkic evaluate`."""

from pathlib import Path
from typing import Any

import click

from dkic.cli.messages import failing
from dkic.cli.options import PATH
from dkic.evaluation.evaluate import DEFAULT_TARGETS, run
from dkic.evaluation.metric_registry import METRICS, OPTIONAL, SLOW


class _ManyValues(click.Command):
    """Lets an option that may be given several times take several values at once: `--target-bpp 0.075 0.15`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        spread: list[str] = []
        option = None
        for arg in args:
            if arg.startswith("-") and len(arg) > 1:
                option = arg if arg in several else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(arg)
        return super().parse_args(ctx, spread)


@click.command(cls=_ManyValues, short_help="Compare codecs at target rates.")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--codec", "codecs", multiple=True, metavar="NAMES", help="Codecs; all there are by default.")
@click.option(
    "-t",
    "--target-bpp",
    "targets",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    metavar="BPPS",
    default=DEFAULT_TARGETS,
    show_default=True,
    help="Mean bits per pixel over the pictures.",
)
@click.option("-o", "--out", required=True, type=PATH, metavar="REPORT", help="A folder, for tables and files.")
@click.option("--weights", type=PATH, multiple=True, metavar="FILES", help="CompressAI's files of cheng2020 models.")
@click.option(
    "--allocate-by",
    type=click.Choice(list(METRICS)),
    default="lpips",
    show_default=True,
    help="What each codec's qualities are chosen for at a target.",
)
@click.option("--anchor", metavar="NAME", help="The codec that BD-rates are against; by default the first with 4 qualities.")
@click.option("--crop", "crops", multiple=True, metavar="IMAGE:X,Y,W,H", help="Figures of these pictures, with these crops.")
@click.option(
    "--page-pictures",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="The page holds the first so many pictures.",
)
@click.option(
    "--metrics",
    type=click.Choice([*OPTIONAL, "all", "none"]),
    multiple=True,
    metavar="NAMES",
    default=("all",),
    show_default=True,
    help=f"Beside LPIPS, PSNR and MS-SSIM: {', '.join(OPTIONAL)}, all, or none.",
)
@click.option(
    "--score-every-file",
    is_flag=True,
    help=f"Have {' and '.join(SLOW)}, which take seconds, metric all files, for curves and BD-rates, not only those at a target.",
)
@click.option("--inception", type=PATH, metavar="FILE", help="Weights of torch-fidelity's Inception, for FID and KID.")
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads, of every codec; all cores by default.")
@click.option("--force", is_flag=True, help="Overwrite the files of an earlier report.")
def evaluate(folder: Path, out: Path, **options: Any) -> None:
    """Compare codecs on the pictures in DIR, at target rates.

    Every number comes from files on disk that are decoded again. Each codec is brought to a target by choosing one
    of its qualities for each picture, for the least LPIPS (see `dkic allocate`). NAME is dkic:MODEL, cheng2020 (both
    its networks), cheng2020-anchor, cheng2020-attn, bpg444, hevc444, vvc, avif, jxl, webp, jpeg or jpeg2000; what
    can't run here is left out, with the reason. FID and KID, of patches of 256x256 pixels, are there where Inception's
    weights are: torch-fidelity's file, given by --inception or in torch's or dkic's cache; a missing one is not
    downloaded, and the report says where to get it. REPORT gets index.html, a page to compare pictures with a slider,
    table.md, .csv and .tex, rate-distortion curves (.png, .svg) and bd_rate.md, figures
    with crops of the pictures, measurements.parquet (every file), chosen.parquet (those of the table), and the files.
    """
    with failing():
        found = run(folder, out, log=click.echo, **options)
    from dkic.evaluation.table import as_markdown

    click.echo("\n" + as_markdown(found.cells))
