"""Rate and distortion of every quality and qstep: the figures of dkic.coding.operating_points.

    python -m benchmarks.operating_points PHOTOS --model tiny

Means over the photographs; operating points that rate control uses are bold.
"""

from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from dkic.coding.codec import load
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.coding.operating_points import OperatingPoint
from dkic.errors import DkicError
from dkic.rate_control.meter import Meter

QSTEPS = range(5, -5, -1)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--model", default="tiny", show_default=True, help="As `dkic compress` takes it.")
def main(photos: Path, model: str) -> None:
    """Prints bits per pixel and LPIPS of each quality and qstep."""
    try:
        codec, images = load(model), [read_image(path) for path in images_in(photos).images]
        meter, points = Meter(codec, "lpips"), codec.points.all()
        click.echo("| quality | " + " | ".join(f"qstep {qstep:+}" if qstep else "qstep 0" for qstep in QSTEPS) + " |")
        click.echo("| --- |" + " --- |" * len(QSTEPS))
        for quality in codec.qualities:
            row = [OperatingPoint(quality, qstep) for qstep in tqdm(QSTEPS, disable=None, leave=False)]
            cells = [cell(meter, images, point, points) for point in row]
            click.echo(f"| {quality} | " + " | ".join(cells) + " |")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


def cell(meter: Meter, images: list, point: OperatingPoint, points: list[OperatingPoint]) -> str:
    measurements = [meter.measure(image, point) for image in images]
    bpp = np.mean([measurement.bpp for measurement in measurements])
    text = f"{bpp:.4f} / {np.mean([measurement.scores['lpips'] for measurement in measurements]):.4f}"
    return f"**{text}**" if point in points else text


if __name__ == "__main__":
    main()
