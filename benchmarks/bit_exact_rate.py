"""Rate cost of dkic.compressai.make_bit_exact on a small CompressAI model that this script trains.

    python benchmarks/bit_exact_rate.py PHOTOS HELD_OUT --model mean-scale --minutes 20 --weights mean_scale.pth

Trains on one thread on photographs of PHOTOS, calibrates on 16 others, and prints the size of HELD_OUT's streams before and
after. Weights that exist already are measured without training. --model elic: Elic2022Official, with channel groups and
checkerboard contexts.
"""

import argparse
import math
import random
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from compressai.models import CompressionModel, Elic2022Official, MeanScaleHyperprior
from PIL import Image
from torch import Tensor

from dkic.compressai import accelerate, make_bit_exact

MODELS = {
    "mean-scale": lambda: MeanScaleHyperprior(32, 48),
    "elic": lambda: Elic2022Official(32, 48, groups=[8, 8, 16, 16]),
}
CROP, BATCH, LAMBDA, LEARNING_RATE = 64, 8, 0.013, 2e-3
MOST_PIXELS = 800_000  # of a photograph: decoding larger ones would take longer than training with them
TRAINING, CALIBRATION = 90, 16  # photographs
DIVISOR = 64  # of the sides of an image


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def batch(photos: list[np.ndarray]) -> Tensor:
    crops = []
    for photo in random.choices(photos, k=BATCH):
        i, j = (random.randrange(side - CROP + 1) for side in photo.shape[:2])
        crops.append(photo[i : i + CROP, j : j + CROP])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def train(model: CompressionModel, photos: list[np.ndarray], minutes: float) -> None:
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    others = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    optimizer, auxiliary = torch.optim.Adam(others, LEARNING_RATE), torch.optim.Adam(quantiles, 1e-2)
    start, steps = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, steps / 100) * (1.02 + 0.98 * math.cos(math.pi * progress)) / 2
        x = batch(photos)
        out = model(x)
        bpp = sum(-t.log2().sum() for t in out["likelihoods"].values()) / (BATCH * CROP * CROP)
        mse = (out["x_hat"] - x).square().mean()
        optimizer.zero_grad()
        (bpp + LAMBDA * 255**2 * mse).backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        optimizer.step()
        auxiliary.zero_grad()
        model.aux_loss().backward()
        auxiliary.step()
        steps += 1
        if steps % 100 == 0:
            print(f"{progress:4.0%} step {steps}: {bpp.item():.3f} bpp, {psnr(mse):.2f} dB", flush=True)
    print(f"{steps} steps, {(time.monotonic() - start) / 60:.1f} minutes")


def psnr(mse: Tensor) -> float:
    return -10 * math.log10(mse.item())


@torch.no_grad()
def mean_psnr(model: CompressionModel, images: list[Tensor]) -> float:
    return sum(psnr((model(x)["x_hat"].clamp(0, 1) - x).square().mean()) for x in images) / len(images)


def images(paths: Iterable[Path]) -> list[Tensor]:
    """`[1, 3, H, W]`, cropped to what the model takes."""
    photos = (torch.from_numpy(read(path)).permute(2, 0, 1)[None].float() / 255 for path in paths)
    return [x[..., : x.shape[2] // DIVISOR * DIVISOR, : x.shape[3] // DIVISOR * DIVISOR] for x in photos]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--model", choices=list(MODELS), default="mean-scale")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--weights", type=Path, help="default: MODEL.pth")
    options = parser.parse_args()
    weights = options.weights or Path(f"{options.model}.pth")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    paths = [path for path in sorted(options.photos.iterdir()) if math.prod(Image.open(path).size) < MOST_PIXELS]
    model = accelerate(MODELS[options.model]())
    if not weights.exists():
        train(model, [read(path) for path in paths[:TRAINING]], options.minutes)
        torch.save(model.state_dict(), weights)
    model.load_state_dict(torch.load(weights))
    model.eval()
    model.update(force=True, update_quantiles=True)
    held_out = images(sorted(options.held_out.iterdir()))
    before = mean_psnr(model, held_out)
    report = make_bit_exact(model, images(paths[TRAINING : TRAINING + CALIBRATION]), measure=held_out)
    bpp = 8 * report.float_bytes / sum(x.shape[2] * x.shape[3] for x in held_out)
    print(f"{len(held_out)} images, {bpp:.3f} bpp: {before:.3f} dB, then {mean_psnr(model, held_out):.3f} dB")
    print(f"{report}: {report.rate_change:+.2%}")


if __name__ == "__main__":
    main()
