"""`dkic export-onnx`."""

from pathlib import Path

import click

from dkic.cli.messages import failing
from dkic.cli.options import FORCE, MODEL, PATH


@click.command(short_help="Write a model's networks as ONNX files.")
@MODEL
@click.option(
    "--quality", type=int, help="One of the model's qualities.  [default: 50 for a variable-rate model, otherwise the highest]"
)
@click.option(
    "-o", "--out", "folder", required=True, metavar="DIR", type=PATH, help="Folder for the files; created if it does not exist."
)
@FORCE
def export_onnx(model: str, quality: int | None, folder: Path, force: bool) -> None:
    """Write a model's transforms and quantized networks as ONNX files, with a README of their tensors.

    Needs the extra `onnx`.
    """
    from dkic.codec_onnx import export_codec
    from dkic.coding.codec import load
    from dkic.coding.operating_points import named
    from dkic.errors import DkicError

    with failing():
        codec = load(model)
        quality = codec.points.default_quality if quality is None else quality
        if quality not in codec.qualities:
            raise DkicError(f"--quality: model {model} does not have {quality}; use {named(codec.qualities)}")
        for path in export_codec(codec.weights_of(quality), quality, folder, force):
            click.echo(path)
