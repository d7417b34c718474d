"""Compresses a folder of images to several target rates, and plots the distortion.

    python examples/compress_to_rate.py PHOTOS OUT [--target-bpp 0.1 0.2 0.4]

All images share the bits of a target; each gets the operating point with which the total squared error is lowest. OUT gets a
folder of .dkic files for each target, and rate_distortion.png. Measurements are cached, so further targets take little time.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import dkic
from dkic.coding.image_formats import images_in
from dkic.rate_control.image_set import ImageSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target-bpp", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--no-qsteps", action="store_true", help="choose among fewer operating points, which is faster")
    arguments = parser.parse_args()

    codec = dkic.load()
    rates, psnrs = [], []
    for target in arguments.target_bpp:
        folder = arguments.out / f"{target:g}bpp"
        folder.mkdir(parents=True, exist_ok=True)
        images = ImageSet(codec, target, distortion="mse", qsteps=not arguments.no_qsteps, force=True)
        for path in images_in(arguments.photos).images:
            images.measure(str(path), folder / f"{path.stem}.dkic")
        files, _ = images.write()
        measured = [file.measurement for file in files]
        rate = sum(m.bytes for m in measured) * 8 / sum(m.pixels for m in measured)
        mse = sum(m.scores["mse"] for m in measured) / len(measured)
        rates.append(rate)
        psnrs.append(10 * math.log10(255**2 / mse))
        print(f"target {target:g} bpp: {rate:.4f} bpp, PSNR of the mean squared error {psnrs[-1]:.2f} dB")

    plt.plot(rates, psnrs, "o-")
    plt.xlabel("bits per pixel")
    plt.ylabel("PSNR [dB]")
    plt.savefig(arguments.out / "rate_distortion.png")


if __name__ == "__main__":
    main()
