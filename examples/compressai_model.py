"""Runs a CompressAI model on dkic's kernels, then makes it bit-exact.

python examples/compressai_model.py photo.png [--model mbt2018-mean] [--quality 4] [--untrained]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from compressai.zoo import image_models
from PIL import Image
from torch import Tensor, nn

from dkic.compressai import accelerate, make_bit_exact, restore

MULTIPLE = 64  # of an image's sides


def timed(call: Callable[[], dict]) -> tuple[dict, float]:
    """A result, and the seconds that it took."""
    start = perf_counter()
    result = call()
    return result, perf_counter() - start


def both_ways(model: nn.Module, x: Tensor) -> tuple[dict, Tensor]:
    """Streams and decoded image; prints the times."""
    out, encoding = timed(lambda: model.compress(x))
    decoded, decoding = timed(lambda: model.decompress(out["strings"], out["shape"]))
    print(f"{encoding * 1e3:.0f} ms to compress, {decoding * 1e3:.0f} ms to decompress")
    return out, decoded["x_hat"]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", choices=sorted(image_models), default="mbt2018-mean")
    parser.add_argument("--quality", type=int, default=4)
    parser.add_argument("--untrained", action="store_true", help="random weights: nothing is downloaded")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = image_models[arguments.model](arguments.quality, pretrained=not arguments.untrained).eval()
    model.update()
    x = torch.from_numpy(np.array(Image.open(arguments.photo).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    x = x[..., : x.shape[2] // MULTIPLE * MULTIPLE, : x.shape[3] // MULTIPLE * MULTIPLE]

    print("CompressAI: ", end="")
    theirs, expected = both_ways(model, x)
    accelerate(model)
    print("dkic:       ", end="")
    ours, decoded = both_ways(model, x)
    print(f"streams {'equal' if ours['strings'] == theirs['strings'] else 'differ'}, images within ", end="")
    print(f"{(decoded - expected).abs().max():.1e}")
    restore(model)

    try:
        report = make_bit_exact(model, x)
    except TypeError as error:
        print(error)
    else:
        print(f"bit-exact: {report.float_bytes} bytes become {report.bit_exact_bytes} ({report.rate_change:+.2%})")


if __name__ == "__main__":
    main()
