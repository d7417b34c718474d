"""The image section: encodes a latent to bytes and decodes it.

    encode  z_hat -> rANS;  z_hat -> h_s (or the quality) -> for each slice, each pass: context -> (mean, scale index)
                                         -> round((y - mean) / size) -> rANS
    decode  the reverse

Contents: 4 bytes, the CRC32C of the reconstructed latents z_hat and y_hat as little-endian float32 in coding order; then the rANS
stream of z (each channel has its own table; a variable-rate model has no z) and of y (slice after slice, pass after pass).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dkic.coding.container import DkicFile, crc32c
from dkic.coding.rans import Decoder, Encoder
from dkic.entropy.arithmetic import arithmetic_name
from dkic.entropy.quantization import NO_SCALE, SCALE_INDEX_MAX, coded_index, coded_mean, nearest_index
from dkic.errors import DkicError, FormatError
from dkic.memory import give_back_freed_memory
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.slice_context import take_cells
from dkic.models.weights_file import Weights

_LARGE = 2**16  # positions of a latent, of 16 megapixels
_OTHER_ARITHMETIC = "the file was encoded with other arithmetic than this machine's"


class CodedPart(NamedTuple):
    """z or a pass of y, as it is coded; `[n]` in coding order, on the model's device.

    symbols: int32. indexes: of their tables, uint8. values: of z_hat or y_hat, in the model's arithmetic.
    largest: the largest absolute symbol, before it became an int32. no_scale: whether a scale is NaN. Both are scalars.
    """

    symbols: Tensor
    indexes: Tensor
    values: Tensor
    largest: Tensor
    no_scale: Tensor

    def check(self) -> None:
        """Raises DkicError for what only broken weights produce."""
        if not self.largest < 2**31:
            raise DkicError("model: its latent is not finite or far too large, as of broken weights; use other weights")
        if self.no_scale:
            raise DkicError(NO_SCALE)


def encode_latent(y: Tensor, z_hat: Tensor | None, weights: Weights, quality: int, qstep: int = 0) -> bytes:
    """y `[1, M, h, w]` and z_hat `[1, hyper_channels, h/4, w/4]` -> the image section's payload."""
    coder, crc = Encoder(weights.tables), 0
    parts = coded_parts(y, z_hat, weights, quality, qstep)
    # No pass waits for a GPU to hand over the one before. On the CPU a part's memory is free before the next one takes its own.
    for part in list(parts) if y.is_cuda else parts:
        part.check()
        coder.push(part.symbols.cpu(), part.indexes.cpu())
        crc = _crc(part.values, crc)
    return struct.pack("<I", crc) + coder.finish()


def coded_parts(y: Tensor, z_hat: Tensor | None, weights: Weights, quality: int, qstep: int = 0) -> Iterator[CodedPart]:
    """What is coded of an image, in coding order: z, if the model has one, then y pass by pass."""
    dtype, (features_quality, quantizer) = weights.arithmetic.dtype, weights.quantization(quality, qstep)
    if z_hat is not None:
        # Contiguous, as in the decoder: for FLOAT64, whose convolutions round, another layout may select another algorithm.
        z_hat = z_hat.to(dtype).contiguous()
        largest, no_scale = z_hat.abs().amax(), torch.zeros((), dtype=torch.bool, device=z_hat.device)
        yield CodedPart(z_hat.to(torch.int32).flatten(), _z_indexes(z_hat.shape), z_hat.flatten(), largest, no_scale)

    passes = weights.model.context.coding_passes(weights.model.features(z_hat, features_quality, (y.shape[-2], y.shape[-1])))
    for part in passes:
        _bound_memory(y.shape[-2] * y.shape[-1])
        mean, (size, offset) = coded_mean(part.mean), quantizer.of(part.channels)
        # Only the encoder computes this, so how y - mean is rounded need not be the same everywhere.
        # Rounded to nearest: rounding to zero below 0.6 saved 2.3 % of quality 5's bits for 0.0042 of LPIPS (11 photographs),
        # where a qstep saves 6.5 % for 0.0015.
        symbols = (take_cells(y[:, part.channels], part.cells) - mean).div_(size).round_().contiguous()
        index = nearest_index(part.scale_index, offset)
        coded = symbols.to(torch.int32).flatten(), index.to(torch.uint8).flatten()
        largest, no_scale = symbols.abs().amax(), index.isnan().any()
        part.y_hat = symbols.to(dtype).mul_(size).add_(mean)  # may be in place
        yield CodedPart(*coded, part.y_hat.flatten(), largest, no_scale)


def decode_latent(file: DkicFile, weights: Weights) -> Tensor:
    """The image section -> y_hat `[1, M, h, w]`, with its checksum verified. Raises FormatError."""
    header = file.header
    if header.arithmetic != weights.arithmetic:
        name = arithmetic_name(header.arithmetic)
        raise FormatError(
            f"header: the file needs arithmetic {name}, and its model {weights.hash.hex()} has {weights.arithmetic}"
        )
    if len(file.image) < 4:
        raise FormatError("image section: too short to contain an image")
    model, crc = weights.model, 0
    try:
        quality, quantizer = weights.quantization(header.quality, header.qstep)
    except DkicError as error:
        raise FormatError(f"header: {error}, which model {weights.hash.hex()} serves, so the file is damaged") from None
    height, width = (-(-side // SIZE_MULTIPLE) for side in (header.height, header.width))

    def pull(indexes: Tensor) -> Tensor:
        return coder.pull(indexes).to(weights.device, weights.arithmetic.dtype)

    z_shape = (1, model.config.hyper_channels, height, width)
    _check_claim(file, weights, height * width)
    try:
        coder = Decoder(file.image[4:], weights.tables)
        z_hat = None
        if model.config.hyper_channels:
            z_hat = pull(_z_indexes(z_shape)).view(z_shape)
            crc = _crc(z_hat, crc)
        passes = model.context.coding_passes(model.features(z_hat, quality, (4 * height, 4 * width)))
        for part in passes:
            _bound_memory(16 * height * width)
            size, offset = quantizer.of(part.channels)
            symbols = pull(coded_index(part.scale_index, offset).flatten().cpu()).view(part.mean.shape)
            part.y_hat = symbols.mul_(size).add_(coded_mean(part.mean))
            crc = _crc(part.y_hat, crc)
        coder.finish()
    except FormatError as error:
        raise FormatError(f"image section: {_OTHER_ARITHMETIC} ({error})") from None
    if struct.pack("<I", crc) != file.image[:4]:
        raise FormatError(f"image section: {_OTHER_ARITHMETIC} (the latents' checksum is wrong)")
    return passes.y_hat


def _check_claim(file: DkicFile, weights: Weights, positions: int) -> None:
    """Refuses an image size that the image section is too short for, before memory is allocated.

    positions: of z, each with 4 x 4 of y. Every symbol takes at least the bits of its table's most probable symbol; 1/1000 covers
    the rounding of the coder's states, which is below 2^-15.
    """
    least = weights.tables.least_bits()
    y_least, z_least = least[: SCALE_INDEX_MAX + 1].min(), least[SCALE_INDEX_MAX + 1 :].sum()
    bits = positions * (z_least + 16 * weights.model.config.latent_channels * y_least)
    needed = 4 + int(0.999 * bits / 8)
    if len(file.image) < needed:
        raise FormatError(
            f"image section: {len(file.image)} bytes can't hold {file.header.width} x {file.header.height} pixels, for which "
            f"this model takes at least {needed}, so the file is damaged"
        )


def _bound_memory(positions: int) -> None:
    """Returns freed memory to the system: for a large image the passes leave gaps, 0.6 GB in total at 8192x8192."""
    if positions > _LARGE:
        give_back_freed_memory()


def _z_indexes(shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Table indexes of z: channel c has table 64 + c."""
    _, c, h, w = shape
    tables = torch.arange(SCALE_INDEX_MAX + 1, SCALE_INDEX_MAX + 1 + c, dtype=torch.uint8, device="cpu")
    return tables.repeat_interleave(h * w)


def _crc(values: Tensor, crc: int) -> int:
    """Continues a CRC with a latent's values. A zero counts as positive: its sign depends on how the symbol was computed."""
    return crc32c((values.float() + 0.0).contiguous().cpu().numpy().astype("<f4", copy=False).tobytes(), crc)
