"""The image section: encodes a latent to bytes and decodes it.

    encode  z_hat -> rANS;  z_hat -> h_s (or the quality) -> for each slice, each pass: context -> (mean, scale index)
                                         -> round((y - mean) / size) -> rANS
    decode  the reverse

Contents: 4 bytes, the CRC32C of all symbols as little-endian int32 in coding order; then the rANS stream of z (each channel has
its own table; a variable-rate model has no z) and of y (slice after slice, pass after pass).
"""

import struct

import torch
from torch import Tensor

from dkic.coding.container import DkicFile, crc32c
from dkic.coding.rans import Decoder, Encoder
from dkic.entropy.arithmetic import arithmetic_name
from dkic.entropy.quantization import SCALE_INDEX_MAX, coded_index, coded_mean
from dkic.errors import DkicError, FormatError
from dkic.memory import give_back_freed_memory
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.slice_context import take_cells
from dkic.models.weights_file import Weights

_LARGE = 2**16  # positions of a latent, of 16 megapixels
_OTHER_ARITHMETIC = "the file was encoded with other arithmetic than this machine's"


def encode_latent(y: Tensor, z_hat: Tensor | None, weights: Weights, quality: int, qstep: int = 0) -> bytes:
    """y `[1, M, h, w]` and z_hat `[1, hyper_channels, h/4, w/4]` -> the image section's payload."""
    coder, crc = Encoder(weights.tables), 0
    for symbols, indexes in symbols_of(y, z_hat, weights, quality, qstep):
        coder.push(symbols, indexes)
        crc = _crc(symbols, crc)
    return struct.pack("<I", crc) + coder.finish()


def symbols_of(y: Tensor, z_hat: Tensor | None, weights: Weights, quality: int, qstep: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Symbols of an image and their table indexes, int32 and uint8 `[n]`, on the CPU, in coding order: z, then y pass by pass."""
    dtype, (features_quality, quantizer) = weights.arithmetic.dtype, weights.quantization(quality, qstep)
    coded = []
    if z_hat is not None:
        # Contiguous, as in the decoder: for FLOAT64, whose convolutions round, another layout may select another algorithm.
        z_hat = z_hat.to(dtype).contiguous()
        coded.append(_integers(z_hat, _z_indexes(z_hat.shape)))

    walk = weights.model.context.walk(weights.model.features(z_hat, features_quality, (y.shape[-2], y.shape[-1])))
    for part in walk:
        _bound_memory(y.shape[-2] * y.shape[-1])
        mean, (size, offset) = coded_mean(part.mean), quantizer.of(part.channels)
        # Only the encoder computes this, so how y - mean is rounded need not be the same everywhere.
        # Rounded to nearest: rounding to zero below 0.6 saved 2.3 % of quality 5's bits for 0.0042 of LPIPS (11 photographs),
        # where a qstep saves 6.5 % for 0.0015.
        symbols = (take_cells(y[:, part.channels], part.cells) - mean).div_(size).round_().contiguous()
        coded.append(_integers(symbols, coded_index(part.scale_index, offset)))
        part.y_hat = symbols.to(dtype).mul_(size).add_(mean)
    return [_on_the_cpu(*integers) for integers in coded]  # only now, so that no pass waits for a GPU


def decode_latent(file: DkicFile, weights: Weights) -> Tensor:
    """The image section -> y_hat `[1, M, h, w]`, with the checksum of its symbols verified. Raises FormatError."""
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
        nonlocal crc
        symbols = coder.pull(indexes)
        crc = _crc(symbols, crc)
        return symbols.to(weights.device, weights.arithmetic.dtype)

    z_shape = (1, model.config.hyper_channels, height, width)
    _check_claim(file, weights, height * width)
    try:
        coder = Decoder(file.image[4:], weights.tables)
        z_hat = pull(_z_indexes(z_shape)).view(z_shape) if model.config.hyper_channels else None
        walk = model.context.walk(model.features(z_hat, quality, (4 * height, 4 * width)))
        for part in walk:
            _bound_memory(16 * height * width)
            size, offset = quantizer.of(part.channels)
            symbols = pull(coded_index(part.scale_index, offset).flatten().cpu()).view(part.mean.shape)
            part.y_hat = symbols.mul_(size).add_(coded_mean(part.mean))
        coder.finish()
    except FormatError as error:
        raise FormatError(f"image section: {_OTHER_ARITHMETIC} ({error})") from None
    if struct.pack("<I", crc) != file.image[:4]:
        raise FormatError(f"image section: {_OTHER_ARITHMETIC} (the symbols' checksum is wrong)")
    return walk.y_hat


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


def _integers(symbols: Tensor, indexes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols as int32, their indexes, and the largest absolute symbol, all on their devices."""
    return symbols.to(torch.int32), indexes, symbols.abs().amax()


def _on_the_cpu(symbols: Tensor, indexes: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Both `[n]`, in the order `[C, h, w]`. Raises DkicError for values beyond int32, which only broken weights produce."""
    if not largest < 2**31:
        raise DkicError("the model's latent is not finite or far too large; its weights are broken")
    return symbols.flatten().cpu(), indexes.flatten().cpu()


def _z_indexes(shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Table indexes of z: channel c has table 64 + c."""
    _, c, h, w = shape
    tables = torch.arange(SCALE_INDEX_MAX + 1, SCALE_INDEX_MAX + 1 + c, dtype=torch.uint8, device="cpu")
    return tables.repeat_interleave(h * w)


def _crc(symbols: Tensor, crc: int) -> int:
    return crc32c(symbols.contiguous().numpy().astype("<i4", copy=False).tobytes(), crc)
