"""`run`: measures codecs on a folder of images, allocates qualities at target rates and writes the report.

Heavy modules are imported inside `run`: the command line imports this file for its defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dkic.doctor import processor
from dkic.errors import DkicError, install
from dkic.evaluation.metric_registry import ALWAYS, METRICS, OPTIONAL, load_metrics
from dkic.output_file import make_folder
from dkic.progress import Progress, unseen
from dkic.shipped_weights import DEFAULT_MODEL

if TYPE_CHECKING:
    from dkic.evaluation.report import Evaluation

DEFAULT_CODECS = (f"dkic:{DEFAULT_MODEL}", "cheng2020", "bpg444", "hevc444", "vvc", "avif", "jxl", "webp", "jpeg", "jpeg2000")
DEFAULT_TARGETS = (0.075, 0.15, 0.3)  # the paper's


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
    page_images: int = 6,
    metrics: Sequence[str] = ("all",),
    score_every_file: bool = False,
    inception: Path | None = None,
    threads: int | None = None,
    force: bool = False,
    log: Callable[[str], object] = lambda line: None,
    progress: Progress = unseen,
) -> Evaluation:
    """Measures, allocates and writes the report. The arguments are the options of `dkic evaluate`. Raises DkicError."""
    for package in ("pyarrow", "lpips", "matplotlib", "bjontegaard", "pytorch_msssim"):
        if find_spec(package) is None:
            raise DkicError(f"`dkic evaluate`: needs {package}; {install('eval')}")
    import torch

    from dkic.coding.image_formats import images_in
    from dkic.coding.image_reading import read_image
    from dkic.evaluation.codecs import Unavailable, expand, make_codec
    from dkic.evaluation.fid import PatchMetrics
    from dkic.evaluation.figures import parse_crops
    from dkic.evaluation.inception import load_inception
    from dkic.evaluation.measured_files import decode_file, find_images, measure_files, with_scores
    from dkic.evaluation.report import Evaluation, write_report
    from dkic.evaluation.table import at_target, cell_of

    if threads is not None:
        torch.set_num_threads(threads)
    images = find_images(folder)
    if skipped := images_in(folder).skipped():
        log(f"{folder}: {skipped}")
    names = expand(codecs or DEFAULT_CODECS)
    if anchor is not None and anchor not in names:
        raise DkicError(f"--anchor {anchor}: must be one of the codecs {', '.join(names)}")
    given_crops = parse_crops(crops, images)
    _make_folder(out, force)
    asked = _asked(metrics, allocate_by)
    at_targets = [name for name in asked if METRICS[name].slow and name != allocate_by and not score_every_file]
    of_every_file = load_metrics((*ALWAYS, *(name for name in asked if name not in at_targets)))
    of_chosen = load_metrics(at_targets)
    try:
        originals = (read_image(path).pixels for path in progress(images.values(), "reading", unit="image"))
        patch_metrics = PatchMetrics(load_inception(inception), originals)
        about_fid = patch_metrics.about()
    except Unavailable as error:
        patch_metrics, about_fid = None, [f"FID and KID were not computed: {error}"]
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
        log(f"{codec.name}: {codec.about}; {len(codec.qualities)} qualities of {len(images)} images")
        try:
            own = measure_files(codec, images, out / "files", of_every_file, force, progress)
        except Unavailable as error:
            made.remove(codec)
            leave_out(codec.name, error)
            continue
        rows += own
        for target in sorted(set(targets)):
            cell = at_target(own, target, allocate_by)
            if of_chosen and cell.chosen:
                scored = with_scores(progress(cell.chosen, "scoring", unit="image"), codec, images, out / "files", of_chosen)
                cell = cell_of(codec.name, target, tuple(scored))
            if patch_metrics and cell.chosen:
                fid, kid = patch_metrics(
                    decode_file(codec, out / "files", row) for row in progress(cell.chosen, "FID", unit="image")
                )
                cell = replace(cell, fid=fid, kid=kid)
            cells.append(cell)
    if not made:
        raise DkicError("none of these codecs could run: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    machine = f"{processor()}, CPU threads: {torch.get_num_threads()}, torch {torch.__version__}"
    with_curves = [codec.name for codec in made if len(codec.qualities) >= 4]
    found = Evaluation(
        images=images,
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
    write_report(found, page_images, force)
    return found


def _asked(metrics: Sequence[str], allocate_by: str) -> list[str]:
    """The requested metrics of OPTIONAL. Raises DkicError."""
    for alone in ("all", "none"):
        if alone in metrics and len(metrics) > 1:
            raise DkicError(f"--metrics {alone}: can't be combined with other names; give it alone")
    return [name for name in OPTIONAL if name in (*metrics, allocate_by) or "all" in metrics]


def _make_folder(out: Path, force: bool) -> None:
    if not force and out.is_dir() and any(out.iterdir()):
        raise DkicError(f"{out}: the folder is not empty; overwrite an earlier report with --force")
    make_folder(out)
