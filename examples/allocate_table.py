"""Allocates a quality to each image of a table, within a budget.

    dkic measure PHOTOS -o table.csv
    python examples/allocate_table.py table.csv --target-bpp 0.15

The command `dkic allocate` does the same; this shows the Python interface.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from dkic.allocation import allocate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="columns image, quality, bytes, pixels, lpips")
    parser.add_argument("--target-bpp", type=float, required=True)
    arguments = parser.parse_args()

    with arguments.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = sorted({row["image"] for row in rows})
    qualities = sorted({int(row["quality"]) for row in rows})
    bpp = np.full((len(images), len(qualities)), np.nan)  # NaN: the option does not exist
    lpips, pixels = bpp.copy(), np.zeros(len(images))
    for row in rows:
        at = images.index(row["image"]), qualities.index(int(row["quality"]))
        pixels[at[0]] = int(row["pixels"])
        bpp[at] = int(row["bytes"]) * 8 / int(row["pixels"])
        lpips[at] = float(row["lpips"])

    found = allocate(bpp, lpips, arguments.target_bpp, kind="total_bpp", pixels=pixels)
    for image, choice in zip(images, found.choice, strict=True):
        print(f"{image}: quality {qualities[choice]}")
    print(f"mean LPIPS {found.objective / len(images):.4f}; no choice has less than {found.bound / len(images):.4f}")
    print(f"unused: {found.slack:.3g} bpp")


if __name__ == "__main__":
    main()
