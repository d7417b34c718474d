"""The command line: `dkic compress`, `decompress`, `info`, `doctor`, `demo`, `train`, `quantize`, `export-onnx`, `measure`,
`allocate`, `evaluate`, `convert-lpips`.

Each command is in the file of its name. Every run imports all these files, so heavy modules are imported inside the functions.

Exit status: 0 success; 1 an input failed (the others were processed); 2 wrong usage.
"""

import io
import sys

import click

import dkic
from dkic.cli import (
    allocate,
    compress,
    convert_lpips,
    decompress,
    demo,
    doctor,
    evaluate,
    export_onnx,
    info,
    measure,
    quantize,
    train,
)
from dkic.errors import DkicError, one_line
from dkic.memory import keep_freed_memory


def main() -> None:
    """Entry point of the `dkic` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain characters that the terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="dkic")
    except DkicError as error:  # an option was wrong; no input was touched
        click.echo(one_line(f"dkic: {error}"), err=True)
        sys.exit(2)
    except OSError as error:  # an impossible file name, or a closed standard output
        click.echo(one_line(f"dkic: {error.filename or 'standard output'}: {error.strerror}"), err=True)
        sys.exit(2 if error.filename else 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(dkic.__version__, prog_name="dkic")
def cli() -> None:
    """Learned image compression: encode images to .dkic files and decode them."""
    keep_freed_memory()


for _command in (
    allocate.allocate,
    compress.compress,
    convert_lpips.convert_lpips,
    decompress.decompress,
    demo.demo,
    doctor.doctor,
    evaluate.evaluate,
    export_onnx.export_onnx,
    info.info,
    measure.measure,
    quantize.quantize,
    train.train,
):
    cli.add_command(_command)
