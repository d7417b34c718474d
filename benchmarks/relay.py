"""Progress of a training: mean metrics over photographs, each encoded to the same bits per pixel.

    python -m benchmarks.relay RUN/small.safetensors sets/validation --csv relay/log.csv --leg small_perceptual --hours 1.5

`hours`: core hours of the leg. A row for each rate is appended to the file.
"""

import csv
from pathlib import Path

import click
import numpy as np

import dkic
from dkic.coding.codec import Codec
from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.metric_registry import METRICS, Compare, load_metrics
from dkic.evaluation.metrics import batch

RATES = (0.075, 0.15, 0.3, 0.6)
COLUMNS = ("leg", "hours", "bpp", *METRICS)


@click.command()
@click.argument("model")
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--csv", "table", type=click.Path(path_type=Path), help="A table that gets the rows too.")
@click.option("--leg", default="", help="What was trained.")
@click.option("--hours", type=float, default=0.0, help="Core-hours that it took.")
def main(model: str, photos: Path, table: Path | None, leg: str, hours: float) -> None:
    """Score a MODEL on the photographs in a folder."""
    try:
        codec, metrics = dkic.load(model), load_metrics(METRICS)
        images = [read_image(path).pixels for path in images_in(photos).images]
        rows = [means(codec, images, rate, metrics) for rate in RATES]
    except DkicError as error:
        raise click.ClickException(str(error)) from None
    for row in rows:
        click.echo(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if table is not None:
        new = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows({"leg": leg, "hours": hours} | {name: f"{v:.5g}" for name, v in row.items()} for row in rows)


def means(codec: Codec, images: list[np.ndarray], rate: float, metrics: dict[str, Compare]) -> dict[str, float]:
    """Means of bits per pixel and all metrics. An image whose rate is out of reach is encoded at the lowest quality."""
    found = []
    for pixels in images:
        data = coded(codec, pixels, rate)
        pair = batch(pixels, codec.decompress(data, "numpy"))
        found.append([len(data) * 8 / pixels[..., 0].size, *(metric(pair[:1], pair[1:]).item() for metric in metrics.values())])
    return dict(zip(("bpp", *metrics), np.mean(found, axis=0).tolist(), strict=True))


def coded(codec: Codec, pixels: np.ndarray, rate: float) -> bytes:
    try:
        return codec.compress(pixels, target_bpp=rate)
    except DkicError:  # the lowest quality needs more
        return codec.compress(pixels, codec.qualities[0])


if __name__ == "__main__":
    main()
