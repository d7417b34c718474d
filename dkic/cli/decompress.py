"""`dkic decompress`."""

import os
import sys
import time
from pathlib import Path

import click

from dkic.cli.dkic_file import dkic_files_in, read_dkic
from dkic.cli.inputs import each, output_files, print_notes, with_folders_opened
from dkic.cli.messages import listed
from dkic.cli.options import DEVICE, FORCE, INPUTS, OUT, THREADS, TILE
from dkic.streams import is_stream


@click.command(short_help="Decompress .dkic files to images.")
@INPUTS
@OUT
@click.option(
    "--format", "image_format", metavar="FORMAT", help="png, jpg, webp, ...  [default: the suffix of OUT, otherwise png]"
)
@click.option("--model", help="Weights file, folder, or owner/name on the Hub, for files of a model that is not shipped.")
@TILE
@click.option("--salvage", is_flag=True, help="Also decode files with damaged metadata, and report what is lost.")
@DEVICE
@THREADS
@FORCE
def decompress(
    inputs: tuple[str, ...],
    out: str | None,
    image_format: str | None,
    model: str | None,
    tile: int | None,
    salvage: bool,
    device: str,
    force: bool,
) -> None:
    """Decompress .dkic files to images.

    IN is a file, a folder of .dkic files, or - for standard input. The suffix of OUT sets the image format; if OUT is a folder,
    standard output or not given, the format is PNG. --format overrides it.
    """
    from dkic.coding.image_formats import FORMAT_BY_SUFFIX
    from dkic.coding.image_writing import image_suffix, write_image

    suffix = None if image_format is None else f".{image_format.lower()}"
    if suffix is not None and suffix not in FORMAT_BY_SUFFIX:
        raise click.UsageError(f"--format: must be one of {listed(s[1:] for s in FORMAT_BY_SUFFIX)}, not {image_format}")
    if out is not None and suffix is not None:
        named = FORMAT_BY_SUFFIX.get(os.path.splitext(out)[1].lower())
        if named not in (None, FORMAT_BY_SUFFIX[suffix]) and not os.path.isdir(out):
            raise click.UsageError(f"--format {image_format}: {out} has the suffix of another format; change one of them")
    folders = any(map(os.path.isdir, inputs))
    inputs = with_folders_opened(inputs, dkic_files_in)
    for source in inputs if out is None else ():
        if os.path.splitext(source)[1].lower() in FORMAT_BY_SUFFIX:
            raise click.UsageError(f"{source}: not a .dkic file name; if it is a .dkic file, give its output with -o")
    targets = output_files(inputs, out, suffix or ".png", several=folders or len(inputs) > 1)
    from dkic.coding.codec import Codec, load
    from dkic.coding.container import unpack
    from dkic.output_file import check_output
    from dkic.shipped_weights import find_by_hash

    given = load(model, device) if model else None
    loaded: dict[bytes, Codec] = {}

    def one(source: str, target: Path) -> str:
        check_output(target, force)
        kind = suffix or (".png" if is_stream(target) and not target.suffix else image_suffix(target))
        file = unpack(read_dkic(source), salvage=salvage)
        print_notes(source, file.lost)
        model_hash = file.header.model_hash
        codec = given or loaded.get(model_hash)
        if codec is None:
            codec = loaded[model_hash] = load(find_by_hash(model_hash), device)
        start = time.perf_counter()
        image = codec.decompress(file, "image_data", tile=tile)
        seconds = time.perf_counter() - start
        print_notes(source, [*image.notes, *write_image(image, target, force, suffix=kind)])
        return f"{source} -> {target}: {image.width}x{image.height}, decoded in {seconds:.2f} s"

    sys.exit(each(inputs, targets, one))
