"""`dkic evaluate`."""

from pathlib import Path
from typing import Any

import click

from dkic.cli.messages import failing
from dkic.cli.options import PATH
from dkic.evaluation.evaluate import DEFAULT_TARGETS, run
from dkic.evaluation.metric_registry import METRICS, OPTIONAL, SLOW


class _ManyValues(click.Command):
    """A command whose repeatable options also take several values at once: `--target-bpp 0.075 0.15`."""

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
@click.option("--codec", "codecs", multiple=True, metavar="NAMES", help="Codecs to compare.  [default: all]")
@click.option(
    "-t",
    "--target-bpp",
    "targets",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    metavar="BPPS",
    default=DEFAULT_TARGETS,
    show_default=True,
    help="Target rates: mean bits per pixel over the images.",
)
@click.option("-o", "--out", required=True, type=PATH, metavar="REPORT", help="Folder for the report.")
@click.option(
    "--weights",
    type=PATH,
    multiple=True,
    metavar="FILES",
    help="CompressAI's weights files of cheng2020 models.  [default: downloaded]",
)
@click.option(
    "--allocate-by",
    type=click.Choice(list(METRICS)),
    default="lpips",
    show_default=True,
    help="Metric to optimize when qualities are chosen at a target.",
)
@click.option("--anchor", metavar="NAME", help="Reference codec of the BD-rates.  [default: the first with at least 4 qualities]")
@click.option(
    "--crop",
    "crops",
    multiple=True,
    metavar="IMAGE:X,Y,W,H",
    help="Crop for the figures; at most two an image.  [default: chosen automatically]",
)
@click.option(
    "--page-images",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Number of images on the page index.html.",
)
@click.option(
    "--metrics",
    type=click.Choice([*OPTIONAL, "all", "none"]),
    multiple=True,
    metavar="NAMES",
    default=("all",),
    show_default=True,
    help=f"Metrics beside LPIPS, PSNR and MS-SSIM: {', '.join(OPTIONAL)}, all, or none.",
)
@click.option(
    "--score-every-file",
    is_flag=True,
    help=f"Compute {' and '.join(SLOW)}, which take seconds a file, for all files, not only for those chosen at a target.",
)
@click.option(
    "--inception", type=PATH, metavar="FILE", help="Weights file of torch-fidelity's Inception network, for FID and KID."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Number of CPU threads of each codec.  [default: all cores]")
@click.option("--force", is_flag=True, help="Overwrite the files of an earlier report.")
def evaluate(folder: Path, out: Path, **options: Any) -> None:
    """Compare codecs on the images in DIR at target rates.

    All numbers are measured on files on disk that are decoded again. For each target, one quality of the codec is chosen for each
    image, for the least mean LPIPS within the target (see `dkic allocate`).

    Codecs are dkic:MODEL, cheng2020-anchor, cheng2020-attn, cheng2020 (both), bpg444, hevc444, vvc, avif, jxl, webp, jpeg and
    jpeg2000. A codec that can't run is left out, and the report says why.

    FID and KID of 256x256 patches are computed if torch-fidelity's Inception weights are given by --inception or are in the cache
    of torch or dkic. They are not downloaded.

    REPORT contains index.html, to compare images with a slider; table.md, .csv and .tex; rate-distortion curves (.png, .svg) and
    bd_rate.md; figures with crops; measurements.parquet (all files) and chosen.parquet (files in the table); and the coded files.
    """
    from dkic.cli.progress import bar

    with failing():
        found = run(folder, out, log=click.echo, progress=bar, **options)
    from dkic.evaluation.table import as_markdown

    click.echo("\n" + as_markdown(found.cells))
