"""Trains a `tiny` model for a minute on a folder of photographs, and codes one of them with it.

    python examples/train_on_folder.py PHOTOS RUN [--minutes 1]

A minute shows how training works; a usable model takes hours. Continue with `dkic train PHOTOS --out RUN --resume`.
Needs the extra [train].
"""

import argparse
from pathlib import Path

import dkic
from dkic.coding.image_formats import images_in
from dkic.training.mse_recipe import mse_recipe
from dkic.training.train import train_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--steps", type=int, default=9600, help="length of the learning-rate schedule")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()

    steps = arguments.steps
    recipe = mse_recipe("tiny", lambda_=0.01, steps=steps, batch=arguments.batch, warmup_steps=steps // 4)
    weights = train_folder(arguments.photos, recipe, arguments.run, minutes=arguments.minutes, workers=0, log=print)
    print(f"{weights}, and a log of every step in {arguments.run / 'log.csv'}")

    photo = images_in(arguments.photos).images[0]
    codec = dkic.load(weights)
    data = codec.compress(photo)
    image = codec.decompress(data)
    image.save(arguments.run / "decoded.png")
    print(f"{photo}: {len(data) * 8 / (image.width * image.height):.3f} bpp; decoded.png is in {arguments.run}")


if __name__ == "__main__":
    main()
