"""Saves and opens a .dkic file with Pillow.

python examples/pillow_plugin.py photo.png out.dkic [--quality 40 | --target-bpp 0.3]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import dkic.pillow  # registers the format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("out", type=Path)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--quality", type=int)
    rate.add_argument("--target-bpp", type=float)
    arguments = parser.parse_args()

    image = Image.open(arguments.photo).convert("RGB")
    # As image.save(arguments.out, ...), but an existing file is replaced only after encoding.
    dkic.pillow.save(image, arguments.out, quality=arguments.quality, target_bpp=arguments.target_bpp)

    with Image.open(arguments.out) as opened:  # reads the header
        print(f"{opened.format}, {opened.width}x{opened.height}, {opened.mode}, quality {opened.info['quality']}")
        decoded = np.asarray(opened)
    bpp = arguments.out.stat().st_size * 8 / (image.width * image.height)
    mse = np.mean((decoded.astype(float) - np.asarray(image)) ** 2)
    print(f"{bpp:.3f} bpp, {10 * np.log10(255**2 / mse):.2f} dB")


if __name__ == "__main__":
    main()
