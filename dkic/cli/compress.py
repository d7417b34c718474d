"""`dkic compress`."""

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from dkic.cli.inputs import each, on_stdout, output_files, print_notes, with_folders_opened
from dkic.cli.messages import print_facts
from dkic.cli.options import BACKGROUND, DEVICE, FORCE, ICC, INPUTS, MODEL, OUT, THREADS, TILE
from dkic.errors import FAULTS, one_line, sentence

if TYPE_CHECKING:
    from dkic.rate_control.image_set import ImageSet


@click.command(short_help="Compress images to .dkic files.")
@INPUTS
@OUT
@click.option("-q", "--quality", type=int, help="Quality.  [default: 50 for a variable-rate model, otherwise the highest]")
@click.option(
    "-t",
    "--target-bpp",
    type=click.FloatRange(min=0, min_open=True),
    metavar="BPP",
    help="Upper bound of the bits per pixel: all bits divided by all pixels.",
)
@click.option("--mean", is_flag=True, help="With --target-bpp: bound the mean of the images' bits per pixel instead.")
@click.option(
    "--distortion",
    type=click.Choice(["lpips", "mse"]),
    help="With --target-bpp and several images: the distortion to minimize.  [default: lpips]",
)
@click.option(
    "--no-qsteps",
    is_flag=True,
    help="With --target-bpp: choose only among the qualities that are measured first, which takes less time.",
)
@ICC
@BACKGROUND
@MODEL
@TILE
@click.option("--verify/--no-verify", default=True, show_default=True, help="Decode the latents before a file is written.")
@DEVICE
@THREADS
@FORCE
def compress(
    inputs: tuple[str, ...],
    out: str | None,
    quality: int | None,
    target_bpp: float | None,
    mean: bool,
    distortion: Literal["lpips", "mse"] | None,
    no_qsteps: bool,
    icc: Literal["keep", "drop"],
    background: str | None,
    model: str,
    tile: int | None,
    verify: bool,
    device: str,
    force: bool,
) -> None:
    """Compress images (PNG, JPEG, WebP, TIFF, PPM, BMP, AVIF, JPEG XL) to .dkic files.

    IN is a file, a folder of images, or - for standard input.

    With --target-bpp, a single image is encoded at the operating point (quality and qstep) with the largest file within the
    target. Several images are encoded so that together they reach the target with nearly the least mean LPIPS (or --distortion
    mse). To choose their operating points, each image is encoded and decoded at every quality (every ninth of a variable-rate
    model), and then at operating points near the chosen one. The measurements are cached in $DKIC_CACHE or ~/.cache/dkic, so an
    interrupted run can be resumed and another target needs few new ones. The actual file size never exceeds the target.
    """
    if target_bpp is None and (mean or distortion or no_qsteps):
        given = "--mean" if mean else "--distortion" if distortion else "--no-qsteps"
        raise click.UsageError(f"{given}: needs --target-bpp")
    if target_bpp is not None and not math.isfinite(target_bpp):
        raise click.UsageError(f"--target-bpp: must be a finite number, not {target_bpp}")
    if target_bpp is not None and quality is not None:
        raise click.UsageError("--quality: can't be combined with --target-bpp; give one of them")
    folders = any(map(os.path.isdir, inputs))
    inputs = with_folders_opened(inputs)
    targets = output_files(inputs, out, ".dkic", several=folders or len(inputs) > 1)
    from dkic.coding.codec import load
    from dkic.coding.container import icc_section_bytes, unpack
    from dkic.coding.image_reading import read_image
    from dkic.coding.operating_points import OperatingPoint, named
    from dkic.output_file import check_output, write_atomically

    codec = load(model, device)
    if quality is not None and quality not in codec.qualities:
        raise click.UsageError(f"--quality: model {model} does not have {quality}; use {named(codec.qualities)}")
    if target_bpp is not None and (len(inputs) > 1 or no_qsteps):
        from dkic.cli.progress import bar
        from dkic.rate_control.image_set import ImageSet

        kind: Literal["mean_bpp", "total_bpp"] = "mean_bpp" if mean else "total_bpp"
        images = ImageSet(
            codec,
            target_bpp,
            kind=kind,
            distortion=distortion or "lpips",
            qsteps=not no_qsteps,
            verify=verify,
            tile=tile,
            icc=icc,
            background=background,
            force=force,
            progress=bar,
        )
        _compress_together(inputs, targets, images)

    def one(source: str, target: Path) -> str:
        check_output(target, force)
        image = read_image(source, background)
        print_notes(source, image.notes)
        start = time.perf_counter()
        data = codec.compress(image, quality, target_bpp, verify=verify, tile=tile, icc=icc)
        seconds = time.perf_counter() - start
        write_atomically(target, data, force)
        file, bpp = unpack(data), len(data) * 8 / (image.width * image.height)
        chosen = "" if target_bpp is None else f"{OperatingPoint(file.header.quality, file.header.qstep)}, "
        done = "encoded and verified" if verify else "encoded"
        cost = _cost(len(data), icc_section_bytes(file.icc), bpp)
        return f"{source} -> {target}: {cost}, {chosen}{done} in {seconds:.2f} s"

    sys.exit(each(inputs, targets, one))


def _cost(size: int, icc: int, bpp: float) -> str:
    """Bytes of a file, bytes of its ICC profile if there is one, and bits per pixel."""
    profile = f", ICC profile {icc} bytes" if icc else ""
    return f"{size} bytes{profile}, {bpp:.3f} bpp"


def _compress_together(inputs: tuple[str, ...], targets: list[Path], images: "ImageSet") -> NoReturn:
    """Reports the images that can't be coded, and encodes the others to the target."""
    status = each(inputs, targets, images.measure)
    if not len(images):
        sys.exit(status)
    try:
        written, facts = images.write()
    except FAULTS as error:
        click.echo(one_line(f"dkic: {sentence(error)}"), err=True)
        sys.exit(1)
    err = on_stdout(*targets)
    for file in written:
        print_notes(file.source, file.notes)
        said = f"{file.source} -> {file.target}: {_cost(file.measurement.bytes, file.icc, file.measurement.bpp)}, {file.point}"
        click.echo(one_line(said), err=err)
    print_facts(facts, err)
    sys.exit(status)
