"""The codec's networks as ONNX models, with a README of their tensors. Needs the extra `onnx`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

import dkic
from dkic.entropy.arithmetic import Arithmetic
from dkic.errors import DkicError, install
from dkic.models.codec_network import CodecNetwork
from dkic.models.config import LATENT_STRIDE
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.slice_context import PASSES
from dkic.models.weights_file import Weights
from dkic.output_file import check_output, reason, write_atomically

if TYPE_CHECKING:
    from dkic.entropy_onnx import EntropyModel

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
        return self.model.analyze(image)


class _HyperAnalysis(_Part):
    def forward(self, y: Tensor) -> Tensor:
        z = self.model.hyper_latent(y)
        assert z is not None  # a variable-rate model has no such file
        return z.round()


class _Synthesis(_Part):
    def forward(self, y_hat: Tensor) -> Tensor:
        return self.model.synthesize(y_hat, self.quality).clamp(0, 1)


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
def export_codec(weights: Weights, quality: int, folder: Path, force: bool = False) -> list[Path]:
    """Writes the models of a codec's networks and a `README.md` of their tensors into a folder.

    The transforms are `analysis.onnx`, `hyper_analysis.onnx` (with a hyper-prior) and `synthesis.onnx`, in float32. Quantized
    networks of the entropy model are exported as integer operators, with exactly dkic's results (see `dkic.entropy_onnx`):
    `hyper_synthesis.onnx`, or `features.onnx` of a variable-rate model; `slice_K.onnx` and `slice_K_pass_P.onnx`. Float ones, of
    weights that are not quantized, are left out, since no two runtimes compute the same numbers with them.

    Args:
        weights: of a model on the CPU.
        quality: one of `weights.qualities`. Of a variable-rate model, synthesis and features depend on it.
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
        from dkic.entropy_onnx import entropy_models

        table = dkic.onnx.translation_table()
    except ImportError:
        raise DkicError(f"ONNX: its export needs onnx and onnxscript; {install('onnx')}") from None
    if quality not in weights.qualities:
        raise DkicError(f"{weights.path}: this model has no quality {quality}; give another quality")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DkicError(f"{folder}: can't be made ({reason(error)}); name a folder") from None
    transforms, readme = list(_transforms(weights, quality)), folder / "README.md"
    exact = weights.arithmetic == Arithmetic.EXACT
    entropy = list(entropy_models(weights.model, weights.quality_at(quality, 0), OPSET)) if exact else []
    names = [_FILES[transform.source] for transform in transforms] + [f"{model.name}.onnx" for model in entropy]
    for path in (*(folder / name for name in names), readme):
        check_output(path, force)  # before the first is written
    written = []
    for transform in transforms:
        path = folder / _FILES[transform.source]
        write_atomically(path, _onnx_file(transform, table), force)
        written.append(path)
    for model in entropy:
        path = folder / f"{model.name}.onnx"
        write_atomically(path, model.model.SerializeToString(), force)
        written.append(path)
    transform_files = [_FILES[transform.source] for transform in transforms]
    write_atomically(readme, _readme(weights, quality, transform_files, entropy).encode(), force)
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


def _readme(weights: Weights, quality: int, transforms: list[str], entropy: list[EntropyModel]) -> str:
    config = weights.model.config
    rows = "\n".join(_ROWS[name].format(m=config.latent_channels, z=config.hyper_channels) for name in transforms)
    return f"""\
# Networks of a dkic model

Model {weights.hash.hex()}, quality {quality}, exported by dkic {dkic.__version__} with opset {OPSET}.

| file | input | output |
| --- | --- | --- |
{rows}

All tensors are float32, images are RGB in [0, 1], and batch, height and width are dynamic. H and W are multiples of
{SIZE_MULTIPLE}: pad an image at the bottom and right by repeating its last row and column, and cut the decoded image to its
size. Round decoded pixels to multiples of 1/255.

## Entropy model

{_entropy_text(weights, entropy) if entropy else _FLOAT_ENTROPY}"""


_FLOAT_ENTROPY = """\
The entropy model of these weights is not quantized, so it is not part of the export: a float network gives other numbers in
another runtime, and a file would not decode. Quantize the weights with `dkic quantize`.
"""


def _entropy_text(weights: Weights, entropy: list[EntropyModel]) -> str:
    rows = "\n".join(f"| `{model.name}.onnx` | {_tensors(model.inputs)} | {_tensors(model.outputs)} |" for model in entropy)
    start, parts = 0, []
    for number, spec in enumerate(weights.model.config.slices, 1):
        cells = "; ".join(", ".join(map(str, cells)) for cells in PASSES[spec.passes])
        parts.append(f"| {number} | {start} to {start + spec.channels - 1} | {cells} |")
        start += spec.channels
    return f"""\
All numbers are integers or multiples of 1/64, in float32. The results are exactly dkic's in every runtime that follows the ONNX
specification and computes `DeformConv` in float32.

| file | inputs | outputs |
| --- | --- | --- |
{rows}

The latent's channels are coded slice after slice, and a slice pass after pass. A pass codes some cells (row, column) of the 2x2
grid of positions:

| slice | channels of y_hat | cells of pass 1; pass 2; ... |
| --- | --- | --- |
{chr(10).join(parts)}

`y_hat` of `slice_K.onnx` holds the channels of the slices before K. `y_hat` of `slice_K_pass_P.onnx` holds those of slice K, with
0 at the cells that are not decoded yet. `mean` and `scale_index` are those of the cells of the pass, one cell below the other.
Then `y_hat = symbol * size + mean`. A symbol is coded with the Gaussian table `scale_index`, less the quantizer's offset
(`dkic.entropy.quantization.coded_index`). Symbols and tables are not part of the export; `dkic.coding.rans` codes them.

{_SIZES[weights.model.variable_rate]}
"""


_SIZES = {
    True: "`features.onnx` has the size and the offset of each channel of y_hat. They are those of qstep 0, as are the features\n"
    "and the synthesis, so a file that was compressed to a target rate can't be decoded.",
    False: "The size is that of the file's qstep (`dkic.entropy.quantization.qstep_size`), the offset the qstep itself.",
}


def _tensors(tensors: dict[str, str]) -> str:
    return "; ".join(f"`{name}` `{shape}`" for name, shape in tensors.items())
