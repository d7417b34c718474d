"""Options and arguments that several commands take."""

from pathlib import Path
from typing import Any

import click

from dkic.cli.inputs import STDIN, STDOUT
from dkic.shipped_weights import DEFAULT_MODEL
from dkic.streams import descriptor_of, is_terminal

PATH = click.Path(path_type=Path)  # the type of an option


def read_from(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
    """Callback of an argument: `-` is standard input. For one input, or several."""
    if isinstance(given, tuple):
        return tuple(read_from(_context, _parameter, one) for one in given)
    if str(given) == "-":
        given = type(given)(STDIN)
    if given is not None and descriptor_of(given) is not None and is_terminal(given):
        raise click.BadParameter(f"{given} is a terminal; redirect it, or give a file")
    return given


def write_to(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
    """Callback of an option: `-` is standard output."""
    return type(given)(STDOUT) if str(given) == "-" else given


def _set_threads(_context: click.Context, _parameter: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _check_tile(_context: click.Context, _parameter: click.Parameter, tile: int | None) -> int | None:
    if tile and tile % 64:
        raise click.BadParameter(f"must be a multiple of 64, not {tile}")
    return tile


_DEVICES = click.Choice(["cpu", "cuda"])

INPUTS = click.argument("inputs", metavar="IN...", nargs=-1, required=True, callback=read_from)
OUT = click.option(
    "-o",
    "--out",
    metavar="OUT",
    callback=write_to,
    help="A file, - for standard output, or a folder for several inputs.  [default: beside each IN; standard output for -]",
)
FORCE = click.option("--force", is_flag=True, help="Overwrite existing files.")
MODEL = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Name of a shipped model, a weights file, a folder of weights files, or owner/name on the Hugging Face Hub.",
)
TILE = click.option(
    "--tile",
    type=click.IntRange(min=0),
    callback=_check_tile,
    metavar="PIXELS",
    help="Side of the tiles that bound memory; 0: no tiles.  [default: 1024 above 4 megapixels]",
)
ICC = click.option(
    "--icc",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="Keep or drop the ICC profile of an image. Its bytes count in the rate; sRGB is never stored.",
)
BACKGROUND = click.option("--background", metavar="COLOR", help="Flatten transparency onto this color, such as white or #rrggbb.")
DEVICE = click.option("--device", type=_DEVICES, default="cpu", show_default=True, help="Where the networks compute.")
TRAINING_DEVICE = click.option(
    "--device", type=_DEVICES, help="Where to train.  [default: cuda if a GPU is available, otherwise cpu]"
)
THREADS = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    callback=_set_threads,
    expose_value=False,
    help="Number of CPU threads.  [default: all cores]",
)
