"""`dkic decompress`."""

import sys
import time
from pathlib import Path

import click

from dkic.cli.dkic_file import read_dkic
from dkic.cli.options import DEVICE, FORCE, INPUTS, OUT, THREADS, TILE
from dkic.inputs import each, output_files, tell_notes


@click.command(short_help="Decompress .dkic files to pictures.")
@INPUTS
@OUT
@click.option("--model", help="Weights file or folder, for files that were not made with a shipped model.")
@TILE
@click.option("--salvage", is_flag=True, help="Decode pictures whose metadata is damaged, and say what is lost.")
@DEVICE
@THREADS
@FORCE
def decompress(
    inputs: tuple[str, ...], out: str, model: str | None, tile: int | None, salvage: bool, device: str, force: bool
) -> None:
    """Decompress .dkic files to pictures; the suffix says which kind, PNG in a folder."""
    targets = output_files(inputs, out, ".png", several=len(inputs) > 1)
    from dkic.coding.codec import Codec, load
    from dkic.coding.container import unpack
    from dkic.coding.image_io import picture_suffix, write_picture
    from dkic.models.weights_file import find_by_hash
    from dkic.output_file import check_output

    given = load(model, device) if model else None
    loaded: dict[bytes, Codec] = {}

    def one(source: str, target: Path) -> str:
        check_output(target, force)
        picture_suffix(target)
        file = unpack(read_dkic(source), salvage=salvage)
        tell_notes(source, file.lost)
        model_hash = file.header.model_hash
        codec = given or loaded.get(model_hash)
        if codec is None:
            codec = loaded[model_hash] = load(find_by_hash(model_hash), device)
        start = time.perf_counter()
        picture = codec.decompress(file, "picture", tile=tile)
        seconds = time.perf_counter() - start
        tell_notes(source, [*picture.notes, *write_picture(picture, target, force)])
        return f"{source} -> {target}: {picture.width}x{picture.height}, decoded in {seconds:.2f} s"

    sys.exit(each(inputs, targets, one))
