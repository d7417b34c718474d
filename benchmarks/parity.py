"""Parity of a bridge of dkic with the package that it replaces: differences of results, as a StoredTable.

    python -m benchmarks.parity compressai > benchmarks/results/parity_compressai.csv     # or dcn, onnx, pillow

Models of CompressAI are untrained, with latents and scales that vary (see tests/compressai_bridge/bridge_models.py).
"""

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.source_commit import source_commit
from benchmarks.stored_table import StoredTable
from dkic.doctor import processor

TESTS = Path(__file__).resolve().parents[1] / "tests"


Row = tuple[str, ...]


class Bridge(NamedTuple):
    columns: Row
    rows: Callable[[], Iterator[Row]]
    peers: tuple[str, ...]  # names of the packages


def compressai() -> Iterator[Row]:
    from compressai_bridge.bridge_models import AUTOREGRESSIVE, MODELS, images, model_of

    from dkic.compressai import accelerate, restore

    for name in MODELS:
        # CompressAI 1.2.8 can't decode a batch with RasterScanLatentCodec.
        model, x = model_of(name), images(1 if name == "raster scan" else 2)
        theirs = model.compress(x)
        expected = model.decompress(**_arguments(theirs))["x_hat"]
        out = model(x)["likelihoods"]
        accelerate(model)
        ours = model.compress(x)
        equal = sum(a == b for a, b in zip(_strings(ours), _strings(theirs), strict=True))
        decoded = model.decompress(**_arguments(ours if name in AUTOREGRESSIVE else theirs))["x_hat"]
        likelihoods = model(x)["likelihoods"]
        restore(model)
        away = max(((likelihoods[key] - t).abs() / t).max().item() for key, t in out.items())
        total = len(_strings(theirs))
        label = "RasterScanLatentCodec" if name == "raster scan" else type(model).__name__
        remarks = ["autoregressive"] * (name in AUTOREGRESSIVE) + ["one crop"] * (len(x) == 1)
        yield (
            f"{label} ({'; '.join(remarks)})" if remarks else label,
            f"{equal} of {total} equal",
            _difference(decoded, expected),
            f"{away:.1e}",
        )


def dcn() -> Iterator[Row]:
    import torchvision
    from nn import dcn_reference

    from dkic.nn import DCNv3, DCNv4, convert

    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        layer = torchvision.ops.DeformConv2d(64, 64, 3, padding=1).to(dtype)
        tensors = [torch.randn(shape, dtype=dtype) for shape in ((2, 64, 32, 48), (2, 18, 32, 48), (2, 9, 32, 48))]
        expected = layer(*tensors)
        ours = convert(torch.nn.Sequential(layer))[0]
        yield f"DeformConv2d, {str(dtype)[6:]}", "torchvision", _difference(ours(*tensors), expected)
    x = torch.randn(2, 16, 12, 64, dtype=torch.float64)
    for version, module, reference in (
        ("DCNv3", DCNv3(64, group=4), lambda m: dcn_reference.dcnv3(m, x)),
        ("DCNv4", DCNv4(64, group=4), lambda m: dcn_reference.dcnv4(m, x.flatten(1, 2), (16, 12))),
    ):
        module = module.double().eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        y = module(x) if version == "DCNv3" else module(x.flatten(1, 2), (16, 12))
        yield f"{version}, float64", "plain PyTorch (grid_sample)", _difference(y, reference(module))


def onnx() -> Iterator[Row]:
    import onnxruntime

    from dkic.codec_onnx import export_codec
    from dkic.coding.transforms import analyze
    from dkic.demo import PHOTO
    from dkic.entropy.arithmetic import Arithmetic
    from dkic.hub import find_weights
    from dkic.models.slice_context import take_cells
    from dkic.models.weights_file import load_weights

    pixels = _pixels(PHOTO, 256, 384)
    for path in find_weights("small"):
        weights = load_weights(path)
        assert weights.arithmetic == Arithmetic.EXACT
        variable_rate = weights.model.variable_rate
        quality = 50 if variable_rate else weights.quality
        at, quantizer = weights.quantization(quality, 0)
        with tempfile.TemporaryDirectory() as folder:
            export_codec(weights, quality, Path(folder))

            def run(name: str, folder: str = folder, **tensors: Tensor) -> list[Tensor]:
                session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx")
                found = session.run(None, {key: t.contiguous().numpy() for key, t in tensors.items()})
                return [torch.from_numpy(t) for t in found]

            y, z_hat = analyze(pixels, weights, tile=0)
            expected = weights.model.features(z_hat, at, y.shape[-2:])
            shape = {"shape": torch.tensor(expected.shape)}
            features = (run("features", **shape) if z_hat is None else run("hyper_synthesis", z_hat=z_hat))[0]
            different = int((features != expected).sum())
            numbers, known, start = features.numel(), torch.zeros_like(y), 0
            passes = iter(weights.model.context.coding_passes(features))
            for number, spec in enumerate(weights.model.config.slices, 1):
                before = {"y_hat": known[:, :start]} if start else {}
                (of_slice,) = run(f"slice_{number}", features=features, **before)
                for index in range(1, spec.passes + 1):
                    part = next(passes)
                    decoded = {"y_hat": known[:, part.channels]} if index > 1 else {}
                    found = run(f"slice_{number}_pass_{index}", slice_features=of_slice, **decoded)
                    for ours, theirs in zip((part.mean, part.scale_index), found, strict=True):
                        different += int((ours != theirs).sum())
                        numbers += ours.numel()
                    size = quantizer.of(part.channels).size
                    part.y_hat = ((take_cells(y[:, part.channels], part.cells) - part.mean) / size).round() * size + part.mean
                    for (i, j), t in zip(part.cells, part.y_hat.chunk(len(part.cells), dim=2), strict=True):
                        known[:, part.channels, i::2, j::2] = t
                start += spec.channels
            (image,) = run("synthesis", y_hat=known)
            ours = weights.model.synthesize(known, at).clamp(0, 1)
            levels = ((ours * 255).round() - (image * 255).round()).abs()
        name = f"{path.stem}, quality {quality}" if variable_rate else path.stem
        yield name, f"{different} of {numbers:,} numbers differ", _difference(image, ours), f"{levels.max():.0f}"


def pillow() -> Iterator[Row]:
    from PIL import Image

    import dkic
    import dkic.pillow
    from dkic.demo import PHOTO

    codec, image = dkic.load(), Image.open(PHOTO).crop((0, 0, 192, 128))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.dkic"
        for quality in range(20, 101, 20):
            image.save(path, quality=quality)
            same = path.read_bytes() == codec.compress(image, quality)
            ours = codec.decompress(path.read_bytes(), "numpy").astype(int)
            away = np.abs(np.asarray(Image.open(path)).astype(int) - ours).max()
            yield str(quality), "equal" if same else "different", str(away)


def _arguments(compressed: dict) -> dict:
    return {key: compressed[key] for key in ("strings", "shape")}


def _strings(compressed: dict) -> list[bytes]:
    return [string for strings in compressed["strings"] for string in strings]


def _pixels(path: Path, height: int, width: int) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB").crop((0, 0, width, height)))).permute(2, 0, 1)[None]


def _difference(a: Tensor, b: Tensor) -> str:
    return "equal" if torch.equal(a, b) else f"{(a - b).abs().max().item():.1e}"


BRIDGES = {
    "compressai": Bridge(("model", "streams", "decoded image", "likelihoods, relative"), compressai, ("compressai",)),
    "dcn": Bridge(("module", "compared with", "largest difference"), dcn, ("torchvision",)),
    "onnx": Bridge(("weights", "quantized networks", "synthesis, of 1", "decoded pixels, gray levels"), onnx, ("onnxruntime",)),
    "pillow": Bridge(("quality", "file", "decoded pixels, gray levels"), pillow, ("pillow",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bridge", choices=BRIDGES)
    name = parser.parse_args().bridge
    bridge = BRIDGES[name]
    sys.path.insert(0, str(TESTS))
    threads = torch.get_num_threads()
    machine = f"{processor()} with {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}"
    versions = ", ".join([f"PyTorch {torch.__version__}", *(f"{p} {importlib.metadata.version(p)}" for p in bridge.peers)])
    with torch.no_grad():
        rows = tuple(bridge.rows())
    command = f"python -m benchmarks.parity {name}"
    print(StoredTable(command, machine, versions, source_commit(), bridge.columns, rows).text(), end="")


if __name__ == "__main__":
    main()
