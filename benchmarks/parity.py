"""Parity of dkic's bridges with the packages that they replace: differences of results, in a Markdown table.

    python -m benchmarks.parity [compressai dcn onnx pillow]

Models of CompressAI are untrained, with latents and scales that vary (see tests/compressai_bridge/bridge_models.py).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.source_commit import source_commit

TESTS = Path(__file__).resolve().parents[1] / "tests"


class Row(NamedTuple):
    compared: str
    peer: str
    result: str


def compressai() -> Iterator[Row]:
    import compressai as package
    from compressai_bridge.bridge_models import AUTOREGRESSIVE, MODELS, images, model_of

    from dkic.compressai import accelerate, restore

    peer = f"CompressAI {package.__version__}"
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
        whose = "own" if name in AUTOREGRESSIVE else "its"
        yield Row(f"{name}: streams", peer, f"{equal} of {total} equal")
        yield Row(f"{name}: image of {whose} streams", peer, _difference(decoded, expected))
        yield Row(f"{name}: likelihoods", peer, f"{away:.1e} relative")


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
        yield Row(f"DeformConv2d, {dtype}", f"torchvision {torchvision.__version__}", _difference(ours(*tensors), expected))
    x = torch.randn(2, 16, 12, 64, dtype=torch.float64)
    for version, module, reference in (
        ("DCNv3", DCNv3(64, group=4), lambda m: dcn_reference.dcnv3(m, x)),
        ("DCNv4", DCNv4(64, group=4), lambda m: dcn_reference.dcnv4(m, x.flatten(1, 2), (16, 12))),
    ):
        module = module.double().eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        y = module(x) if version == "DCNv3" else module(x.flatten(1, 2), (16, 12))
        yield Row(f"{version}, torch.float64", "plain PyTorch (grid_sample)", _difference(y, reference(module)))


def onnx() -> Iterator[Row]:
    import onnxruntime

    from dkic.codec_onnx import export_codec
    from dkic.coding.transforms import analyze
    from dkic.demo import PHOTO
    from dkic.entropy.arithmetic import Arithmetic
    from dkic.hub import find_weights
    from dkic.models.slice_context import take_cells
    from dkic.models.weights_file import load_weights

    peer = f"ONNX Runtime {onnxruntime.__version__}"
    pixels = _pixels(PHOTO, 256, 384)
    for path in find_weights("tiny"):
        weights = load_weights(path)
        assert weights.arithmetic == Arithmetic.EXACT
        with tempfile.TemporaryDirectory() as folder:
            export_codec(weights, weights.quality, Path(folder))

            def run(name: str, folder: str = folder, **tensors: Tensor) -> list[Tensor]:
                session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx")
                found = session.run(None, {key: t.contiguous().numpy() for key, t in tensors.items()})
                return [torch.from_numpy(t) for t in found]

            y, z_hat = analyze(pixels, weights, tile=0)
            (features,) = run("hyper_synthesis", z_hat=z_hat)
            different = int((features != weights.model.features(z_hat, None, y.shape[-2:])).sum())
            numbers, known, start = features.numel(), torch.zeros_like(y), 0
            traversal = iter(weights.model.context.traverse(features))
            for number, spec in enumerate(weights.model.config.slices, 1):
                before = {"y_hat": known[:, :start]} if start else {}
                (of_slice,) = run(f"slice_{number}", features=features, **before)
                for index in range(1, spec.passes + 1):
                    part = next(traversal)
                    decoded = {"y_hat": known[:, part.channels]} if index > 1 else {}
                    found = run(f"slice_{number}_pass_{index}", slice_features=of_slice, **decoded)
                    for ours, theirs in zip((part.mean, part.scale_index), found, strict=True):
                        different += int((ours != theirs).sum())
                        numbers += ours.numel()
                    part.y_hat = (take_cells(y[:, part.channels], part.cells) - part.mean).round() + part.mean
                    for (i, j), t in zip(part.cells, part.y_hat.chunk(len(part.cells), dim=2), strict=True):
                        known[:, part.channels, i::2, j::2] = t
                start += spec.channels
            (image,) = run("synthesis", y_hat=known)
            ours = weights.model.synthesize(known, None).clamp(0, 1)
            levels = ((ours * 255).round() - (image * 255).round()).abs()
        yield Row(f"{path.stem}: quantized networks", peer, f"{different} of {numbers:,} numbers differ")
        yield Row(f"{path.stem}: synthesis", peer, f"{_difference(image, ours)}; gray levels: {levels.max():.0f}")


def pillow() -> Iterator[Row]:
    import PIL
    from PIL import Image

    import dkic
    import dkic.pillow
    from dkic.demo import PHOTO

    codec, image = dkic.load(), Image.open(PHOTO).crop((0, 0, 192, 128))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.dkic"
        for quality in codec.qualities:
            image.save(path, quality=quality)
            same = path.read_bytes() == codec.compress(image, quality)
            ours = codec.decompress(path.read_bytes(), "numpy").astype(int)
            away = np.abs(np.asarray(Image.open(path)).astype(int) - ours).max()
            result = f"file {'equal' if same else 'differs'}; gray levels: {away}"
            yield Row(f"quality {quality}: save and open", f"dkic.Codec, with Pillow {PIL.__version__}", result)


def _arguments(compressed: dict) -> dict:
    return {key: compressed[key] for key in ("strings", "shape")}


def _strings(compressed: dict) -> list[bytes]:
    return [string for strings in compressed["strings"] for string in strings]


def _pixels(path: Path, height: int, width: int) -> Tensor:
    from PIL import Image

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB").crop((0, 0, width, height)))).permute(2, 0, 1)[None]


def _difference(a: Tensor, b: Tensor) -> str:
    return f"{(a - b).abs().max().item():.1e}"


BRIDGES: dict[str, Callable[[], Iterator[Row]]] = {"compressai": compressai, "dcn": dcn, "onnx": onnx, "pillow": pillow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bridges", nargs="*", metavar="BRIDGE", default=list(BRIDGES))
    bridges = parser.parse_args().bridges
    if unknown := set(bridges) - BRIDGES.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such bridge; use {', '.join(BRIDGES)}")
    sys.path.insert(0, str(TESTS))
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, commit {source_commit()}\n")
    print("| compared | with | largest difference |\n| --- | --- | --- |")
    with torch.no_grad():
        for bridge in bridges:
            for row in BRIDGES[bridge]():
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
