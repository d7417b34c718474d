"""`dkic export-onnx`."""

from pathlib import Path

import click

from dkic.cli.messages import failing
from dkic.cli.options import FORCE, MODEL, PATH


@click.command(short_help="Write a model's networks as ONNX files.")
@MODEL
@click.option("--quality", type=int, help="One of the model's qualities.  [default: the highest]")
@click.option(
    "-o", "--out", "folder", required=True, metavar="DIR", type=PATH, help="Folder for the files; created if it does not exist."
)
@FORCE
def export_onnx(model: str, quality: int | None, folder: Path, force: bool) -> None:
    """Write a model's transforms and quantized networks as ONNX files, with a README of their tensors.

    Needs the extra `onnx`.
    """
    from dkic.codec_onnx import export_codec
    from dkic.coding.operating_points import named
    from dkic.errors import DkicError
    from dkic.hub import find_weights
    from dkic.models.weights_file import load_weights

    with failing():
        served = {q: weights for weights in map(load_weights, find_weights(model)) for q in weights.qualities}
        quality = max(served) if quality is None else quality
        if quality not in served:
            raise DkicError(f"--quality: model {model} does not have {quality}; use {named(sorted(served))}")
        for path in export_codec(served[quality], quality, folder, force):
            click.echo(path)
