"""`dkic export`."""

from pathlib import Path
from typing import Any, Literal

import click

from dkic.cli.messages import failing
from dkic.cli.options import FORCE, PATH, THREADS, TRAINING_DEVICE


@click.command(short_help="Make a trained model's files decode alike everywhere.")
@click.argument("model", metavar="MODEL")
@click.argument("photos", metavar="DIR", type=PATH)
@click.option("-o", "--out", required=True, metavar="FILE", type=PATH, help="The new weights file.")
@click.option("--measure", metavar="DIR", type=PATH, help="Tell what it costs in rate on these pictures.")
@TRAINING_DEVICE
@click.option("--steps", type=int, default=0, show_default=True, help="Steps of training as integers.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=256, show_default=True, help="Side of a crop; a multiple of 64.")
@click.option("--lr", "learning_rate", type=float, default=2e-4, show_default=True, help="Adam's first learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops and noise.")
@THREADS
@FORCE
def export(
    model: str,
    photos: Path,
    out: Path,
    measure: Path | None,
    device: Literal["cpu", "cuda"] | None,
    force: bool,
    **settings: Any,
) -> None:
    """Turn MODEL's entropy networks into integers.

    They are trained for it on the photographs in DIR; of the transforms large weights are rounded to 8 bits.
    """
    from tqdm import tqdm

    from dkic.training.export import ExportSettings
    from dkic.training.export import export as write

    with failing():
        write(model, photos, out, ExportSettings(**settings), device=device, force=force, measure=measure, log=tqdm.write)
