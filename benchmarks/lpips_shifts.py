"""Whether a codec is overfitted to LPIPS's sampling: LPIPS of images, and of the same images shifted.

    python -m benchmarks.lpips_shifts PHOTOS --codec dkic:small --codec hevc444

AlexNet's first layer has a stride of 4 pixels. A decoder trained for LPIPS can optimize only those pixels, with a visible
pattern; the score then gets worse if both images are shifted. For other codecs it does not change.
"""

from pathlib import Path

import click
import numpy as np

from dkic.coding.image_formats import images_in
from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.codecs import make_codec
from dkic.evaluation.metrics import batch, lpips
from dkic.losses.lpips import LPIPS

SHIFTS = (0, 1, 2, 3)


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option("--codec", "names", multiple=True, default=("dkic:small",), help="As dkic evaluate takes them; several times.")
@click.option("--quality", "chosen", type=int, multiple=True, help="As dkic evaluate has them; several times. All by default.")
def main(photos: Path, names: tuple[str, ...], chosen: tuple[int, ...]) -> None:
    """Means over the photographs, for the codecs' qualities: bits per pixel, and LPIPS moved by 0 to 3 pixels each way."""
    try:
        images, network = [read_image(path).pixels for path in images_in(photos).images], LPIPS("alex")
        for name in names:
            codec = make_codec(name)
            if unknown := set(chosen) - set(codec.qualities):
                raise DkicError(f"{name} has no quality {min(unknown)}; it has {', '.join(map(str, codec.qualities))}")
            for quality in chosen or codec.qualities:
                click.echo(f"{name} {quality}: {row([measured(codec, quality, x, network) for x in images])}")
    except DkicError as error:
        raise click.ClickException(str(error)) from None


def measured(codec, quality: int, x: np.ndarray, network: LPIPS) -> list[float]:
    data = codec.encode(x, quality)
    pair = batch(x, codec.decode(data))
    moved = [lpips(pair[:1, :, s:, s:], pair[1:, :, s:, s:], network).item() for s in SHIFTS]
    return [len(data) * 8 / x[..., 0].size, *moved]


def row(results: list[list[float]]) -> str:
    bpp, *moved = np.mean(results, axis=0)
    return f"{bpp:.3f} bits per pixel, LPIPS " + ", ".join(f"{value:.3f}" for value in moved)


if __name__ == "__main__":
    main()
