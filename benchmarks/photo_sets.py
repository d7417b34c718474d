"""Photographs in three sets, out of Debian packages: for training, for validation (to choose by), for test (to report on only).

    for p in PACKAGES: apt-get download p; dpkg -x p*.deb SOURCE/p
    python -m benchmarks.photo_sets SOURCE OUT    # OUT/train, OUT/validation, OUT/test as PNG, and OUT/sets.csv with licences

Training: JPEGs are downscaled by 2 (Lanczos), by 4 where they are large and have less than 0.5 bits per pixel, so that a model
does not learn their artifacts; PNGs are kept. Validation and test: downscaled to cover 768x512 and cropped to it from the center.
A photograph for training that resembles a held-out one (mean difference of 32x32 gray thumbnails, also mirrored) is an error.
"""

import csv
from pathlib import Path

import click
import numpy as np
from PIL import Image

LANCZOS = Image.Resampling.LANCZOS
# As the packages state them.
GPL2, BYSA4, BYSA3, BY4, CC0 = "GPL-2+", "CC-BY-SA-4.0", "CC-BY-SA-3.0", "CC-BY-4.0", "CC0-1.0"
MIT, APACHE = "MIT", "Apache-2.0 as a whole; authors not named"
LOMIRI = "usr/share/backgrounds"
LXQT = "usr/share/lxqt/wallpapers"
MATE = "usr/share/backgrounds/mate/nature"
PALAPELI = "usr/share/palapeli/collection"
PLASMA = "usr/share/wallpapers/{}/contents/images/2560x1600.jpg"
OPENCV = "usr/share/doc/opencv-doc"
KIVY = "usr/share/kivy-examples"

VALIDATION = [
    ("plasma-workspace-wallpapers", PLASMA.format("EveningGlow"), "EveningGlow", GPL2),
    ("mate-backgrounds", f"{MATE}/Garden.jpg", "Garden", GPL2),
    ("plasma-workspace-wallpapers", PLASMA.format("FallenLeaf"), "FallenLeaf", GPL2),
    ("lomiri-wallpapers-20.04", f"{LOMIRI}/Kleiber_by_Lukas_Baubkus.jpg", "Kleiber_by_Lukas", BYSA3),
    ("python-kivy-examples", f"{KIVY}/demo/pictures/images/Wall.jpg", "Wall", MIT),
]
TEST = [
    ("lomiri-wallpapers-16.04", f"{LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg", "picosdeeuropa", BY4),
    ("lomiri-wallpapers-16.04", f"{LOMIRI}/life_by_Aitzol_Berasategi.jpg", "life_by_Aitzol", BY4),
    ("lomiri-wallpapers-16.04", f"{LOMIRI}/friends_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol", BY4),
    ("palapeli-data", f"{PALAPELI}/castle-maintenon.jpg", "castle-maintenon", GPL2),
    ("palapeli-data", f"{PALAPELI}/cincinnati-bridge.jpg", "cincinnati-bridge", GPL2),
    ("lomiri-wallpapers-16.04", f"{LOMIRI}/Picture_1A_by_freespace.jpg", "Picture_1A", BY4),
]
TRAIN = [
    *(("lomiri-wallpapers-16.04", f"{LOMIRI}/{name}.jpg", None, licence) for name, licence in (
        ("Bridge_by_Sander_Klootwijk", BYSA4), ("Dragonfly_by_Bolly", BYSA4), ("Picture_0B_by_freespace", BY4),
        ("Wine_by_Jakkub_Mede", BY4), ("aitzgorri_by_Aitzol_Berasategi", BY4), ("analogpattern_by_Peter_Nerlich", BYSA4),
        ("free_by_Peter_Nerlich", BYSA4), ("greentock_by_Peter_Nerlich", BYSA4), ("seeding_by_Clements_Engelhardt", CC0),
        ("sunset_by_Aitzol_Berasategi", BY4))),
    *(("lxqt-themes", f"{LXQT}/{name}", None, BYSA3) for name in (
        "Butterfly-Kenneth-Wimer.jpg", "Valendas.png", "after-the-rain.jpg", "appleflower.png", "beam.png", "butterfly.png",
        "cloud.png", "drop.png", "flowers.png", "fog.jpg", "this-is-not-windows.jpg")),
    *(("mate-backgrounds", f"{MATE}/{name}.jpg", None, GPL2) for name in (
        "Aqua", "Blinds", "Dune", "FreshFlower", "GreenMeadow", "LadyBird", "RainDrops", "Storm", "TwoWings", "Wood",
        "YellowFlower")),
    ("mate-backgrounds", "usr/share/backgrounds/mate/abstract/Elephants_5640x3172.jpg", None, GPL2),  # a painting, full of detail
    *(("plasma-workspace-wallpapers", PLASMA.format(name), name, GPL2) for name in (
        "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "Grey", "Kite", "OneStandsOut", "Path", "summer_1am")),
    *(("palapeli-data", f"{PALAPELI}/{name}.jpg", None, GPL2) for name in (
        "citrus-fruits", "european-honey-bee", "panther-chameleon-female")),
    *(("opencv-doc", f"{OPENCV}/examples/{name}", None, APACHE) for name in (
        "alphamat/input_images/plant.jpg", "data/aero1.jpg", "data/aloeL.jpg", "data/apple.jpg", "data/baboon.jpg",
        "data/board.jpg", "data/building.jpg", "data/butterfly.jpg", "data/ela_original.jpg", "data/fruits.jpg",
        "data/graf1.png", "data/home.jpg", "data/leuvenA.jpg", "data/messi5.jpg", "data/orange.jpg", "data/rubberwhale1.png",
        "data/squirrel_cls.jpg", "text/scenetext01.jpg", "text/scenetext02.jpg", "text/scenetext03.jpg",
        "text/scenetext04.jpg", "text/scenetext05.jpg", "text/scenetext06.jpg", "text/scenetext_segmented_word01.jpg",
        "text/scenetext_segmented_word02.jpg", "text/scenetext_segmented_word03.jpg",
        "text/scenetext_segmented_word04.jpg", "text/scenetext_segmented_word05.jpg")),
    *(("opencv-doc", f"{OPENCV}/opencv4/html/{name}", None, APACHE) for name in (
        "227943776_1.jpg", "230501201_1.jpg", "bicubicOutput.jpg", "cat_det.jpg", "fusion_mertens.jpg",
        "pexels_double_decker_bus.jpg", "retina_TreeHdr_small.jpg", "studentsSample_input.jpg")),
    *(("python-kivy-examples", f"{KIVY}/{name}", None, MIT) for name in (
        "canvas/kiwi.jpg", "demo/pictures/images/Bubbles.jpg", "demo/pictures/images/faust_github.jpg", "shader/tex3.jpg",
        "widgets/cityCC0.png")),
    *(("stellarium-data", f"usr/share/stellarium/landscapes/{name}", None, GPL2) for name in (
        "guereins/guereinsb.png", "ocean/ocean9.png")),
]
LEAST_SIDE = 160  # of a photograph for training
ALIKE = 8.0  # of 255; the least between different photographs of these is 27.7


def opaque(image: Image.Image) -> Image.Image:
    """RGB; an error where a pixel is transparent."""
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


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(source: Path, out: Path) -> None:
    """Make the sets in OUT from the packages unpacked in SOURCE."""
    Image.MAX_IMAGE_PIXELS = None
    rows, held, train = [], {}, {}
    for name, entries in (("validation", VALIDATION), ("test", TEST), ("train", TRAIN)):
        (out / name).mkdir(parents=True, exist_ok=True)
        for package, file, called, licence in entries:
            path = source / package / file
            called = called or path.stem
            try:
                full = opaque(Image.open(path))
            except (ValueError, OSError) as error:
                raise click.ClickException(f"{path}: {error}") from None
            image = for_training(full, path) if name == "train" else covered(full)
            if min(image.size) < LEAST_SIDE:
                raise click.ClickException(f"{path}: only {image.width}x{image.height} pixels for {name}")
            image.save(out / name / f"{called}.png", compress_level=3)
            (train if name == "train" else held)[called] = thumbnail(full)
            rows.append((name, called, package, file, licence, *full.size, *image.size))
    nearest = sorted(
        (min(np.abs(a - b).mean(), np.abs(a - b[:, ::-1]).mean()), x, y) for x, a in train.items() for y, b in held.items()
    )
    difference, own, other = nearest[0]
    if difference < ALIKE:
        raise click.ClickException(f"{own} resembles {other}, which is held out: exclude it")
    click.echo(f"nearest to a held-out photograph: {own} to {other}, {difference:.1f} of 255")
    with open(out / "sets.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("set", "name", "package", "file", "licence", "source_width", "source_height", "width", "height"))
        writer.writerows(rows)
    for name in ("train", "validation", "test"):
        mine = [r for r in rows if r[0] == name]
        area, before = (sum(r[i] * r[i + 1] for r in mine) / 1e6 for i in (7, 5))
        click.echo(f"{name}: {len(mine)} photographs, {area:.1f} MP ({before:.1f} MP at the source)")


if __name__ == "__main__":
    main()
