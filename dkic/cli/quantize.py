"""`dkic quantize`."""

import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from dkic.cli.inputs import on_stdout, refuse_terminal
from dkic.cli.messages import failing
from dkic.cli.options import FORCE, PATH, THREADS, TRAINING_DEVICE, write_to
from dkic.streams import is_stream


@click.command(short_help="Quantize a trained model for bit-exact decoding.")
@click.argument("model", metavar="MODEL")
@click.argument("photos", metavar="DIR", type=PATH)
@click.option("-o", "--out", required=True, metavar="FILE", type=PATH, callback=write_to, help="The new weights file, or -.")
@click.option("--measure", metavar="DIR", type=PATH, help="Report the change in rate on these images.")
@TRAINING_DEVICE
@click.option("--steps", type=int, default=0, show_default=True, help="Steps of quantization-aware training.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=256, show_default=True, help="Side of a crop; a multiple of 64.")
@click.option("--lr", "learning_rate", type=float, default=2e-4, show_default=True, help="Adam's peak learning rate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of crops and noise.")
@THREADS
@FORCE
def quantize(
    model: str,
    photos: Path,
    out: Path,
    measure: Path | None,
    device: Literal["cpu", "cuda"] | None,
    force: bool,
    **settings: Any,
) -> None:
    """Quantize the entropy networks of MODEL, so that files decode bit-exactly on every machine.

    Activation scales are calibrated on the photographs in DIR; with --steps, quantization-aware training follows. Large weights
    of the transforms are rounded to 8 bits. MODEL is a weights file, or owner/name on the Hugging Face Hub.
    """
    refuse_terminal(out)
    if measure is not None and is_stream(out):
        raise click.UsageError(f"--measure: reads the new weights file, and {out} is a stream; name a file with -o")
    from tqdm import tqdm

    from dkic.cli.progress import StepBar
    from dkic.training.quantization_run import QuantizeSettings
    from dkic.training.quantize import quantize as write

    log = partial(tqdm.write, file=sys.stderr if on_stdout(out) else sys.stdout)
    with failing(), StepBar() as show:
        settings_given = QuantizeSettings(**settings)
        write(model, photos, out, settings_given, device=device, force=force, measure=measure, log=log, show=show)
