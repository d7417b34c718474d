"""The codec's transforms as ONNX models, with a README of their tensors. Needs the extra `onnx`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import dkic
from dkic.errors import DkicError, install
from dkic.models.codec_network import CodecNetwork
from dkic.models.config import LATENT_STRIDE
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.weights_file import Weights
from dkic.output_file import check_output, reason, write_atomically

OPSET = 20
_Shape = tuple[int, int, int, int]


class _Transform(NamedTuple):
    """A model to export: `network` maps a tensor `source` of the shape `example`, batch and size dynamic, to `result`."""

    network: nn.Module
    source: str
    result: str
    example: _Shape


class _Part(nn.Module):
    def __init__(self, model: CodecNetwork, quality: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.quality = model, quality


class _Analysis(_Part):
    def forward(self, image: Tensor) -> Tensor:
        return self.model.analyse(image)


class _HyperAnalysis(_Part):
    def forward(self, y: Tensor) -> Tensor:
        z = self.model.hyper_latent(y)
        assert z is not None  # a variable-rate model has no such file
        return z.round()


class _Synthesis(_Part):
    def forward(self, y_hat: Tensor) -> Tensor:
        return self.model.synthesise(y_hat, self.quality).clamp(0, 1)


def _transforms(weights: Weights, quality: int) -> Iterator[_Transform]:
    model, channels = weights.model, weights.model.config.latent_channels
    image = 2, 3, 2 * SIZE_MULTIPLE, 3 * SIZE_MULTIPLE
    latent = 2, channels, image[2] // LATENT_STRIDE, image[3] // LATENT_STRIDE
    yield _Transform(_Analysis(model), "image", "y", image)
    if not model.variable_rate:
        yield _Transform(_HyperAnalysis(model), "y", "z_hat", latent)
    yield _Transform(_Synthesis(model, weights.quality_at(quality, 0)), "y_hat", "image", latent)


_FILES = {"image": "analysis.onnx", "y": "hyper_analysis.onnx", "y_hat": "synthesis.onnx"}


@torch.no_grad()
def export_transforms(weights: Weights, quality: int, folder: Path, force: bool = False) -> list[Path]:
    """Writes `analysis.onnx`, `hyper_analysis.onnx` (with a hyper-prior), `synthesis.onnx` and `README.md` into a folder.

    Args:
        weights: of a model on the CPU.
        quality: one of `weights.qualities`; only the synthesis of a variable-rate model depends on it.
        folder: created if it does not exist.
        force: overwrite existing files.

    Returns:
        The paths of the files.

    Raises:
        DkicError: onnx or onnxscript is not installed, there is no such quality, or a file exists.
    """
    try:
        import onnx  # noqa: F401

        import dkic.onnx

        table = dkic.onnx.translation_table()
    except ImportError:
        raise DkicError(f"export to ONNX needs onnx and onnxscript; {install('onnx')}") from None
    if quality not in weights.qualities:
        raise DkicError(f"{weights.path}: this model has no quality {quality}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{folder}: can't be made ({reason(error)}); name a folder") from None
    transforms, readme = list(_transforms(weights, quality)), folder / "README.md"
    for path in (*(folder / _FILES[transform.source] for transform in transforms), readme):
        check_output(path, force)  # before the first is written
    written = []
    for transform in transforms:
        path = folder / _FILES[transform.source]
        write_atomically(path, _onnx_file(transform, table), force)
        written.append(path)
    write_atomically(readme, _readme(weights, quality, [path.name for path in written]).encode(), force)
    return [*written, readme]


def _onnx_file(transform: _Transform, table: dict) -> bytes:
    dynamic = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of optional packages
    try:
        program = torch.onnx.export(
            transform.network.eval(),
            (torch.zeros(transform.example),),
            input_names=[transform.source],
            output_names=[transform.result],
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            dynamic_shapes=(dynamic,),
            custom_translation_table=table,
        )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


_ROWS = {
    "analysis.onnx": "| `analysis.onnx` | `image` `[N, 3, H, W]` | `y` `[N, {m}, H/16, W/16]` |",
    "hyper_analysis.onnx": "| `hyper_analysis.onnx` | `y` `[N, {m}, h, w]` | `z_hat` `[N, {z}, h/4, w/4]`, rounded |",
    "synthesis.onnx": "| `synthesis.onnx` | `y_hat` `[N, {m}, h, w]` | `image` `[N, 3, 16h, 16w]` |",
}


def _readme(weights: Weights, quality: int, files: list[str]) -> str:
    config = weights.model.config
    rows = "\n".join(_ROWS[name].format(m=config.latent_channels, z=config.hyper_channels) for name in files)
    return f"""\
# Transforms of a dkic model

Model {weights.hash.hex()}, quality {quality}, exported by dkic {dkic.__version__} with opset {OPSET}.

| file | input | output |
| --- | --- | --- |
{rows}

All tensors are float32, images are RGB in [0, 1], and batch, height and width are dynamic. H and W are multiples of
{SIZE_MULTIPLE}: pad an image at the bottom and right by repeating its last row and column, and cut the decoded image to its
size. Round decoded pixels to multiples of 1/255.

The entropy model is not part of the export. It decides how bits are read, so it is computed in integers, pass by pass with the
entropy coder: `dkic.coding.latent.encode_latent(y, z_hat, ...)` and `decode_latent(...)`, which returns `y_hat`.
"""
