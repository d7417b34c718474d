"""`dkic evaluate`: codecs measured on a folder of pictures, brought to target rates, and compared in tables.

Imports what is heavy only when it runs, since every `dkic` command reads this file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkic.doctor import processor
from dkic.errors import DkicError, install
from dkic.evaluation.judges import ALWAYS, JUDGES, OPTIONAL, SLOW, load_judges
from dkic.inputs import one_line

if TYPE_CHECKING:
    from dkic.evaluation.report import Evaluation

DEFAULT_CODECS = ("dkic:tiny", "cheng2020", "bpg444", "hevc444", "vvc", "avif", "jxl", "webp", "jpeg", "jpeg2000")
DEFAULT_TARGETS = (0.075, 0.15, 0.3)  # the paper's


class _ManyValues(click.Command):
    """Lets an option that may be given several times take several values at once: `--target-bpp 0.075 0.15`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        several = {name for p in self.params if isinstance(p, click.Option) and p.multiple for name in p.opts}
        spread, option = [], None
        for arg in args:
            if arg.startswith("-") and len(arg) > 1:
                option = arg if arg in several else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(arg)
        return super().parse_args(ctx, spread)


_FILE = click.Path(path_type=Path)


@click.command(cls=_ManyValues, short_help="Compare codecs at target rates.")
@click.argument("folder", metavar="DIR", type=_FILE)
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
@click.option("-o", "--out", required=True, type=_FILE, metavar="REPORT", help="A folder, for tables and files.")
@click.option("--weights", type=_FILE, multiple=True, metavar="FILES", help="CompressAI's files of cheng2020 models.")
@click.option(
    "--allocate-by",
    type=click.Choice(list(JUDGES)),
    default="lpips",
    show_default=True,
    help="What each codec's qualities are chosen for at a target.",
)
@click.option(
    "--anchor", metavar="NAME", help="The codec that BD-rates are against; by default the first with 4 qualities."
)
@click.option(
    "--crop", "crops", multiple=True, metavar="IMAGE:X,Y,W,H", help="Figures of these pictures, with these crops."
)
@click.option(
    "--page-pictures",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="The page holds the first so many pictures.",
)
@click.option(
    "--judges",
    type=click.Choice([*OPTIONAL, "all", "none"]),
    multiple=True,
    metavar="NAMES",
    default=("all",),
    show_default=True,
    help=f"Beside LPIPS, PSNR and MS-SSIM: {', '.join(OPTIONAL)}, all, or none.",
)
@click.option(
    "--judge-every-file",
    is_flag=True,
    help=f"Have {' and '.join(SLOW)}, which take seconds, judge all files, for curves and BD-rates, not only those at a target.",
)
@click.option(
    "--inception", type=_FILE, metavar="FILE", help="Weights of torch-fidelity's Inception, for FID and KID."
)
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
    try:
        found = run(folder, out, log=click.echo, **options)
    except DkicError as error:
        click.echo(one_line(f"dkic: {error}"), err=True)
        sys.exit(1)
    from dkic.evaluation.table import as_markdown

    click.echo("\n" + as_markdown(found.cells))


def run(
    folder: Path,
    out: Path,
    *,
    codecs: Sequence[str] = (),
    targets: Sequence[float] = DEFAULT_TARGETS,
    weights: Sequence[Path] = (),
    allocate_by: str = "lpips",
    anchor: str | None = None,
    crops: Sequence[str] = (),
    page_pictures: int = 6,
    judges: Sequence[str] = ("all",),
    judge_every_file: bool = False,
    inception: Path | None = None,
    threads: int | None = None,
    force: bool = False,
    log: Callable[[str], object] = lambda line: None,
) -> Evaluation:
    """Measures, allocates and writes the report; arguments as those of the command. Raises DkicError."""
    for package in ("pyarrow", "lpips", "matplotlib", "bjontegaard", "pytorch_msssim"):
        if find_spec(package) is None:
            raise DkicError(f"`dkic evaluate` needs {package}; {install('eval')}")
    import torch
    from tqdm import tqdm

    from dkic.coding.image_formats import images_in
    from dkic.coding.image_io import read_picture
    from dkic.evaluation.codecs import Unavailable, expand, make_codec
    from dkic.evaluation.fid import PatchMetrics
    from dkic.evaluation.figures import parse_crops
    from dkic.evaluation.inception import load_inception
    from dkic.evaluation.measure import decode_file, find_pictures, judged, measure
    from dkic.evaluation.report import Evaluation, write_report
    from dkic.evaluation.table import at_target, cell_of

    if threads is not None:
        torch.set_num_threads(threads)
    pictures = find_pictures(folder)
    if skipped := images_in(folder).skipped():
        log(f"{folder}: {skipped}")
    names = expand(codecs or DEFAULT_CODECS)
    if anchor is not None and anchor not in names:
        raise DkicError(f"--anchor {anchor}: must be one of the codecs, {', '.join(names)}")
    given_crops = parse_crops(crops, pictures)
    _make_folder(out, force)
    asked = _asked(judges, allocate_by)
    at_targets = [name for name in asked if JUDGES[name].slow and name != allocate_by and not judge_every_file]
    of_every_file = load_judges((*ALWAYS, *(name for name in asked if name not in at_targets)))
    of_chosen = load_judges(at_targets)
    bar = partial(tqdm, unit="picture", disable=None, leave=False)
    try:
        originals = (read_picture(path).pixels for path in bar(pictures.values()))
        patch_metrics = PatchMetrics(load_inception(inception), originals)
        about_fid = patch_metrics.about()
    except Unavailable as error:
        patch_metrics, about_fid = None, [f"FID and KID were left out: {error}"]
    log(about_fid[0])
    made, left_out = [], {}

    def leave_out(name: str, why: Unavailable) -> None:
        left_out[name] = str(why)
        log(f"{name}: left out: {why}")

    for name in names:
        try:
            made.append(make_codec(name, weights))
        except Unavailable as error:
            leave_out(name, error)
    rows, cells = [], []
    for codec in list(made):
        log(f"{codec.name}: {codec.about}; {len(codec.qualities)} qualities of {len(pictures)} pictures")
        try:
            with bar(total=len(pictures)) as shown:
                own = measure(codec, pictures, out / "files", of_every_file, force, lambda _image, shown=shown: shown.update())
        except Unavailable as error:
            made.remove(codec)
            leave_out(codec.name, error)
            continue
        rows += own
        for target in sorted(set(targets)):
            cell = at_target(own, target, allocate_by)
            if of_chosen and cell.chosen:
                chosen = judged(bar(cell.chosen), codec, pictures, out / "files", of_chosen)
                cell = cell_of(codec.name, target, tuple(chosen))
            if patch_metrics and cell.chosen:
                fid, kid = patch_metrics(decode_file(codec, out / "files", row) for row in bar(cell.chosen))
                cell = replace(cell, fid=fid, kid=kid)
            cells.append(cell)
    if not made:
        raise DkicError(
            "none of these codecs could run: " + "; ".join(f"{name}: {why}" for name, why in left_out.items())
        )
    machine = f"{processor()}, CPU threads: {torch.get_num_threads()}, torch {torch.__version__}"
    with_curves = [codec.name for codec in made if len(codec.qualities) >= 4]
    found = Evaluation(
        pictures=pictures,
        folder=out,
        codecs=made,
        left_out=left_out,
        rows=rows,
        cells=cells,
        allocated_by=allocate_by,
        anchor=next((name for name in with_curves if anchor in (None, name)), None),
        crops=given_crops,
        made_on=f"{time.strftime('%Y-%m-%d')}, {machine}",
        about_fid=about_fid,
    )
    write_report(found, page_pictures, force)
    return found


def _asked(judges: Sequence[str], allocate_by: str) -> list[str]:
    """Those of OPTIONAL that are wanted. Raises DkicError."""
    for alone in ("all", "none"):
        if alone in judges and len(judges) > 1:
            raise DkicError(f"--judges {alone}: it goes with no other name")
    return [name for name in OPTIONAL if name in (*judges, allocate_by) or "all" in judges]


def _make_folder(out: Path, force: bool) -> None:
    if not force and out.is_dir() and any(out.iterdir()):
        raise DkicError(f"{out}: the folder is not empty; overwrite what an earlier report left in it with --force")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{out}: the folder can't be made ({error.strerror})") from None
