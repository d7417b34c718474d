"""What steps of quantisation do to rate and distortion, beside what other levels do: the figures of dkic.coding.ladder.

    python -m benchmarks.rungs PHOTOS --model tiny

Means over the photographs at every level and step, and the rungs of the ladder in bold.
"""

from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from dkic.coding.codec import load
from dkic.coding.image_formats import images_in
from dkic.coding.image_io import read_picture
from dkic.coding.ladder import Rung, ladder
from dkic.errors import DkicError
from dkic.targeting.meter import Meter

STEPS = range(5, -5, -1)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--model", default="tiny", show_default=True, help="As `dkic compress` takes it.")
def main(photos: Path, model: str) -> None:
    """Prints bits per pixel and LPIPS of each level and step."""
    try:
        codec, pictures = load(model), [read_picture(path) for path in images_in(photos).images]
        meter, rungs = Meter(codec, "lpips"), ladder(codec.qualities)
        click.echo("| level | " + " | ".join(f"step {step:+}" if step else "step 0" for step in STEPS) + " |")
        click.echo("| --- |" + " --- |" * len(STEPS))
        for quality in codec.qualities:
            cells = [cell(meter, pictures, Rung(quality, step), rungs) for step in tqdm(STEPS, disable=None, leave=False)]
            click.echo(f"| {quality} | " + " | ".join(cells) + " |")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


def cell(meter: Meter, pictures: list, rung: Rung, rungs: list[Rung]) -> str:
    options = [meter.measure(picture, *rung) for picture in pictures]
    bpp = np.mean([option.bytes * 8 / option.pixels for option in options])
    text = f"{bpp:.4f} / {np.mean([option.distortion for option in options]):.4f}"
    return f"**{text}**" if rung in rungs else text


if __name__ == "__main__":
    main()
