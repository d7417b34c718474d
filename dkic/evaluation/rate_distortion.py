"""Rate and distortion over a folder of pictures, from real files, beside JPEG's at no fewer bits.

    python -m dkic.evaluation.rate_distortion FOLDER [--model tiny]
"""

from pathlib import Path

import click
import numpy as np

from dkic.coding.codec import Codec, load
from dkic.coding.image_io import read_picture
from dkic.errors import DkicError
from dkic.evaluation.classical import by_pillow
from dkic.evaluation.metrics import batch, ms_ssim, psnr

COLUMNS = ("bpp", "PSNR", "MS-SSIM", "JPEG bpp", "JPEG PSNR", "JPEG MS-SSIM")


def beside_jpeg(codec: Codec, pixels: np.ndarray, quality: int | None = None) -> tuple[float, ...]:
    """COLUMNS for one picture, uint8 `[H, W, 3]`: bits per pixel of the whole file, dB, and MS-SSIM over RGB."""
    data = codec.compress(pixels, quality)
    decoded = codec.decompress(data, "numpy")
    jpeg = by_pillow("jpeg")
    files = (jpeg.encode(pixels, q) for q in range(1, 96))
    other = next(file for file in files if len(file) >= len(data))
    area = pixels.shape[0] * pixels.shape[1]
    row: tuple[float, ...] = ()
    for size, result in ((len(data), decoded), (len(other), jpeg.decode(other))):
        x, x_hat = batch(pixels), batch(result)
        row += (size * 8 / area, psnr(x, x_hat).item(), ms_ssim(x, x_hat).item())
    return row


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="tiny", show_default=True)
@click.option("--quality", type=int)
def main(folder: Path, model: str, quality: int | None) -> None:
    """A markdown table over the pictures in FOLDER, and their means."""
    try:
        codec = load(model)
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".webp", ".tif", ".tiff", ".ppm", ".bmp"))
        if not paths:
            raise DkicError(f"{folder}: no lossless pictures (PNG, WebP, TIFF, PPM, BMP) in it")
        click.echo("| picture | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 1))
        rows = []
        for path in paths:
            rows.append(beside_jpeg(codec, read_picture(path).pixels, quality))
            click.echo(_line(path.stem, rows[-1]))
        click.echo(_line("**mean**", tuple(np.mean(rows, axis=0))))
    except DkicError as error:
        raise click.ClickException(str(error)) from None


def _line(name: str, row: tuple[float, ...]) -> str:
    formats = ("{:.3f}", "{:.2f}", "{:.4f}") * 2
    return f"| {name} | " + " | ".join(f.format(v) for f, v in zip(formats, row, strict=True)) + " |"


if __name__ == "__main__":
    main()
