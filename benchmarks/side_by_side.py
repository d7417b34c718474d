"""Crops of photographs and of images decoded at a target rate, side by side: the images of the README and of the model card.

    python -m benchmarks.side_by_side PHOTOS REPORT --codec dkic:small --codec hevc444 --codec avif --target-bpp 0.15 \\
        --crop picosdeeuropa:300,120,300,200 --crop life_by_Aitzol:260,150,300,200 --crop friends_by_Aitzol:330,200,300,200 \\
        --crop Picture_1A:250,150,300,200 --crop cincinnati-bridge:240,150,300,200 -o side_by_side.jpg

REPORT is the report of `dkic evaluate PHOTOS`; its files are decoded. --report adds reports, for further codecs.
"""

import io
from itertools import product
from pathlib import Path

import click
import pyarrow.parquet as parquet
from PIL import Image, ImageDraw

from dkic.coding.image_reading import read_image
from dkic.errors import DkicError
from dkic.evaluation.codecs import make_codec
from dkic.evaluation.figures import parse_crops
from dkic.evaluation.measured_files import find_images

NAMES = {"dkic:small": "dkic", "hevc444": "HEVC 4:4:4", "avif": "AVIF", "vvc": "VVC 4:2:0", "jxl": "JPEG XL"}
_GAP, _CAPTION = 4, 20  # pixels


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--report", "more", type=click.Path(path_type=Path), multiple=True, help="Another one.")
@click.option("--codec", "codecs", multiple=True, required=True)
@click.option("--target-bpp", "targets", type=float, multiple=True, default=(0.15,), show_default=True, help="A column each.")
@click.option("--crop", "crops", multiple=True, required=True, metavar="IMAGE:X,Y,W,H", help="A line each.")
@click.option("--scale", type=click.IntRange(1, 4), default=1, show_default=True, help="How many times larger crops are drawn.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(
    photos: Path,
    report: Path,
    more: tuple[Path, ...],
    codecs: tuple[str, ...],
    targets: tuple[float, ...],
    crops: tuple[str, ...],
    scale: int,
    out: Path,
) -> None:
    """Draw the crops, the original first."""
    try:
        images = find_images(photos)
        lines = [(image, crop) for image, some in parse_crops(crops, images).items() for crop in some]
        rows = [(folder, row) for folder in (report, *more) for row in parquet.read_table(folder / "chosen.parquet").to_pylist()]
        chosen = {(row["codec"], row["image"], row["target_bpp"]): (folder, row) for folder, row in rows}
        coders = {name: make_codec(name) for name in codecs}
        sheet = [[("original", crop.of(read_image(images[image]).pixels))] for image, crop in lines]
        for (image, crop), line in zip(lines, sheet, strict=True):
            for name, target in product(codecs, targets):
                folder, row = chosen[name, image, target]
                pixels = coders[name].decode((folder / "files" / row["file"]).read_bytes())
                line.append((f"{NAMES.get(name, name)}, {row['bpp']:.3f} bpp, LPIPS {row['lpips']:.3f}", crop.of(pixels)))
    except (DkicError, OSError) as error:
        raise click.ClickException(str(error)) from None
    except KeyError as error:
        raise click.ClickException("no report has a file of {} for {} chosen for {:g} bpp".format(*error.args[0])) from None
    content = io.BytesIO()
    enlarged = [[(caption, pixels.repeat(scale, 0).repeat(scale, 1)) for caption, pixels in line] for line in sheet]
    drawn(enlarged).save(content, "JPEG", quality=92)
    out.write_bytes(content.getvalue())


def drawn(sheet: list) -> Image.Image:
    """Rows of (caption, uint8 `[h, w, 3]`), all of one size."""
    height, width = sheet[0][0][1].shape[:2]
    if any(pixels.shape[:2] != (height, width) for line in sheet for _, pixels in line):
        raise click.ClickException("the crops must be of one size")
    size = len(sheet[0]) * (width + _GAP) - _GAP, len(sheet) * (height + _CAPTION + _GAP) - _GAP
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(sheet):
        for j, (caption, pixels) in enumerate(line):
            left, top = j * (width + _GAP), i * (height + _CAPTION + _GAP)
            draw.text((left, top + 1), caption, fill="black", font_size=15)
            image.paste(Image.fromarray(pixels), (left, top + _CAPTION))
    return image


if __name__ == "__main__":
    main()
