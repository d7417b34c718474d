"""Creates the missing golden files: `python tests/golden/make_golden.py`, from the root of the repository.

Small quantized models of random weights, one network at each of two qualities and one for all qualities, and images coded with
them. For each image latents.npz has the encoder's integers: z_hat, if the model has one, and y in 64ths. golden.json states the
expected results.

These files pin the format and the exact arithmetic. Never recreate them to fix a test: see test_golden.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.latent_hash import latent_hash  # noqa: E402
from models import variable_rate_models  # noqa: E402
from photographs import crop  # noqa: E402
from quantized.quantized_models import converted  # noqa: E402

from dkic.coding.container import DkicFile, Header, pack, unpack  # noqa: E402
from dkic.coding.latent import decode_latent, encode_latent  # noqa: E402
from dkic.coding.transforms import analyze  # noqa: E402
from dkic.entropy.arithmetic import Arithmetic  # noqa: E402
from dkic.entropy.tables import gaussian_tables  # noqa: E402
from dkic.models.weights_file import load_weights, save_weights  # noqa: E402

FOLDER = Path(__file__).parent
IMAGES = {  # height, width, quality, grayscale, qstep; and the weights, which are those of the quality by default
    "one_pixel": (1, 1, 1, False, 0),
    "odd": (37, 53, 1, False, 0),
    "tall": (130, 1, 2, False, 0),
    "wide": (65, 200, 2, False, 0),
    "gray": (64, 64, 1, True, 0),
    "large": (256, 192, 2, False, 0),
    "whole_cells": (128, 128, 1, False, 0),
    "fine": (70, 90, 2, False, -2),
    "coarse": (96, 80, 1, False, 3),
    "coarsest": (64, 64, 1, True, 8),
    "variable_lowest": (64, 64, 1, False, 0, "variable"),
    "variable_between": (70, 90, 37, False, -5, "variable"),
    "variable_gray": (64, 96, 80, True, 7, "variable"),
    "variable_highest": (130, 65, 100, False, 0, "variable"),
}


def main() -> None:
    weights_of, latents, expected = {}, {}, {}
    if (FOLDER / "golden.json").exists():
        latents, expected = dict(np.load(FOLDER / "latents.npz")), json.loads((FOLDER / "golden.json").read_text())
    for quality in (1, 2):
        path = FOLDER / f"small-q{quality}.safetensors"
        if not path.exists():
            model = converted(quality)
            save_weights(path, model, quality, {}, gaussian_tables().concat(model.prior.tables()))
        weights_of[path.stem] = load_weights(path)
    path = FOLDER / "variable.safetensors"
    if not path.exists():
        save_weights(path, variable_rate_models.converted(), 1, {})
    weights_of[path.stem] = load_weights(path)
    for name, (height, width, quality, grayscale, qstep, *stem) in IMAGES.items():
        if name in expected:
            continue
        weights = weights_of[stem[0] if stem else f"small-q{quality}"]
        x = torch.from_numpy(crop(height, width)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            # Random weights make small latents: larger, and some beyond every table.
            y, z_hat = (t if t is None else t.double() for t in analyze(x, weights))
            y = (y / y.std() * 6 * 64).round()
            y[0, 0, 0, 0], y[0, 4, -1, -1] = 64 * 100_000, -64 * 5_000_000
            if z_hat is not None:
                noise = torch.randn(z_hat.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
                z_hat = (z_hat + 2 * noise).round()
                z_hat[0, 1, 0, 0] = 3000
                latents[f"{name}.z_hat"] = z_hat.numpy().astype(np.int32)
            latents[f"{name}.y"] = y.numpy().astype(np.int32)
            payload = encode_latent(y / 64, z_hat, weights, quality, qstep)
        header = Header(width, height, weights.hash, quality, int(Arithmetic.EXACT), grayscale, qstep)
        data = pack(DkicFile(header, payload))
        (FOLDER / f"{name}.dkic").write_bytes(data)
        with torch.inference_mode():
            y_hat = decode_latent(unpack(data), weights)
        crc = int.from_bytes(payload[:4], "little")
        expected[name] = {"quality": quality, "bytes": len(data), "latents_crc32c": crc, "y_hat": latent_hash(y_hat)}
        if stem:
            expected[name]["weights"] = stem[0]
    np.savez_compressed(FOLDER / "latents.npz", **latents)
    (FOLDER / "golden.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
