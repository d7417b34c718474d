"""`dkic demo`: compresses and decompresses a photograph by the command line, and compares the two."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dkic.coding.image_conversion import image_from
from dkic.coding.image_reading import read_image
from dkic.coding.image_writing import write_image
from dkic.errors import DkicError
from dkic.evaluation.metrics import batch, psnr
from dkic.output_file import make_folder

PHOTO = Path(__file__).with_name("photo.png")
TARGET_BPP = 0.25


def run(out: Path, log: Callable[[str], None]) -> None:
    """Writes photo.dkic, decoded.png and side-by-side.png into the folder `out`; figures go to `log`, line by line."""
    make_folder(out)
    coded, decoded = out / "photo.dkic", out / "decoded.png"
    compress = ["compress", str(PHOTO), "-o", str(coded), "--target-bpp", str(TARGET_BPP)]
    for command in (compress, ["decompress", str(coded), "-o", str(decoded)]):
        done = subprocess.run([sys.executable, "-m", "dkic", *command, "--force"], capture_output=True, text=True)
        if done.returncode:
            raise DkicError(f"`dkic {command[0]}` failed: {done.stderr.strip()}")
        log(done.stdout.strip())
    original, result = read_image(PHOTO).pixels, read_image(decoded).pixels
    bpp = coded.stat().st_size * 8 / (original.shape[0] * original.shape[1])
    x, x_hat = batch(original), batch(result)
    quality = f"PSNR {psnr(x, x_hat).item():.2f} dB"
    log(f"{coded.stat().st_size} bytes, {bpp:.3f} bits per pixel, {quality}")
    pair = Image.fromarray(np.concatenate([original, result], axis=1))
    draw = ImageDraw.Draw(pair)
    for left, text in ((8, "original"), (original.shape[1] + 8, f"dkic, {bpp:.3f} bpp, {quality}")):
        draw.text((left, 8), text, fill="white", stroke_width=2, stroke_fill="black", font_size=18)
    write_image(image_from(pair), out / "side-by-side.png", force=True)
    log(f"images: {decoded}, {out / 'side-by-side.png'}")
