"""Decodes a .dkic file with ONNX Runtime: PyTorch computes none of the networks.

    dkic compress photo.png -o photo.dkic --quality 40
    dkic export-onnx --quality 40 -o networks
    python examples/decode_with_onnx.py photo.dkic networks decoded.png

dkic reads the container, and its entropy coder decodes the symbols. The networks of a variable-rate model are exported for one
quality, so they don't decode a file that was compressed to a target rate.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from dkic.coding.container import DkicFile, unpack
from dkic.coding.rans import Decoder
from dkic.entropy.quantization import SCALE_INDEX_MAX, qstep_size
from dkic.entropy.tables import SCALES
from dkic.models.slice_context import PASSES
from dkic.models.weights_file import Weights, load_weights
from dkic.shipped_weights import find_by_hash


class Networks:
    """The models in a folder that `dkic export-onnx` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, model: str, **tensors: np.ndarray) -> list[np.ndarray]:
        return onnxruntime.InferenceSession(self.folder / f"{model}.onnx").run(None, tensors)


def decode_latent(file: DkicFile, weights: Weights, networks: Networks) -> np.ndarray:
    """y_hat, `[1, M, h, w]`."""
    decoder = Decoder(file.image[4:], weights.tables)  # the symbols' checksum comes first
    config, qstep = weights.model.config, file.header.qstep
    h, w = (-(-side // 64) for side in (file.header.height, file.header.width))

    if weights.model.variable_rate:
        features, sizes, offsets = networks.run("features", shape=np.array([1, config.quality_features, 4 * h, 4 * w]))
    else:
        channels = np.arange(len(SCALES), len(SCALES) + config.hyper_channels, dtype=np.uint8)  # z: a table for each channel
        z_hat = decoder.pull(channels.repeat(h * w)).reshape(1, -1, h, w).astype(np.float32)
        (features,) = networks.run("hyper_synthesis", z_hat=z_hat)
        shape = 1, config.latent_channels, 1, 1
        sizes, offsets = np.full(shape, qstep_size(qstep), np.float32), np.full(shape, qstep)

    y_hat, start = np.zeros((1, config.latent_channels, 4 * h, 4 * w), np.float32), 0
    for number, spec in enumerate(config.slices, 1):
        earlier, own = y_hat[:, :start], y_hat[:, start : start + spec.channels]  # views
        size, offset = (of_y[:, start : start + spec.channels] for of_y in (sizes, offsets))
        (of_slice,) = networks.run(f"slice_{number}", features=features, **({"y_hat": earlier} if start else {}))
        for index, cells in enumerate(PASSES[spec.passes], 1):
            decoded = {"y_hat": own} if index > 1 else {}
            mean, scale_index = networks.run(f"slice_{number}_pass_{index}", slice_features=of_slice, **decoded)
            tables = (scale_index.clip(0, SCALE_INDEX_MAX) - offset).clip(0, SCALE_INDEX_MAX).astype(np.uint8)
            values = decoder.pull(tables.ravel()).reshape(mean.shape).astype(np.float32) * size + mean
            for (i, j), cell in zip(cells, np.split(values, len(cells), axis=2), strict=True):
                own[..., i::2, j::2] = cell
        start += spec.channels
    decoder.finish()
    return y_hat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("networks", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, help="of a model that does not ship")
    arguments = parser.parse_args()

    file, networks = unpack(arguments.file.read_bytes()), Networks(arguments.networks)
    header = file.header
    if f"{header.model_hash.hex()}, quality {header.quality}," not in (arguments.networks / "README.md").read_text():
        parser.error(f"{arguments.networks}: is of another model than {arguments.file}; export quality {header.quality}")
    weights = load_weights(arguments.weights or find_by_hash(header.model_hash))
    if weights.model.variable_rate and header.qstep:
        parser.error(f"{arguments.file}: was compressed to a target rate; compress it with --quality")
    y_hat = decode_latent(file, weights, networks)
    (image,) = networks.run("synthesis", y_hat=y_hat)
    pixels = (image[0, :, : header.height, : header.width] * 255).round().astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels).save(arguments.out)
    print(f"{arguments.out}: {header.width}x{header.height}")


if __name__ == "__main__":
    main()
