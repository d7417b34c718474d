"""Pictures to bytes and back.

    encode  image_io -> x -> g_a -> y -> h_a -> z -> round -> rANS ---------------------------+
            z_hat -> h_s -> for each slice, each pass: context -> (mean, scale index)         |
                  -> round(y - mean) -> rANS -------------------------------------------------+-> container -> file
    decode  the mirror image of it;  y_hat -> g_s -> x_hat -> image_io

The picture section is 4 bytes, the CRC32C of all symbols as little-endian int32 in coding order, then the rANS stream of z
(each channel with its own table) and of y (slice after slice, pass after pass). The size implies the padding to a multiple of 64.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dkic.coding.container import DkicFile, Header, crc32c, pack, unpack
from dkic.coding.image_io import Picture, picture_from, to_pil
from dkic.coding.rans import Decoder, Encoder
from dkic.entropy.quantization import SCALE_INDEX_MAX, Arithmetic, coded_index, coded_mean
from dkic.errors import DkicError, FormatError
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.slice_context import Cells, take_cells
from dkic.models.weights_file import Weights, find_weights, load_weights
from dkic.ops import backends

if TYPE_CHECKING:
    from PIL import Image

_OTHER_ARITHMETIC = "the file was made under other arithmetic than this machine's"


class Codec:
    """One model at one or more quality levels. Make it with `dkic.load`."""

    def __init__(self, levels: list[Weights]) -> None:
        self._levels = {level.quality: level for level in levels}
        if len(self._levels) < len(levels):
            raise DkicError(f"two weights files have the same quality: {', '.join(str(level.path) for level in levels)}")

    @property
    def qualities(self) -> list[int]:
        """The quality levels there are, in rising order of rate."""
        return sorted(self._levels)

    @torch.inference_mode()
    def compress(
        self,
        image: Picture | Image.Image | np.ndarray | Tensor | str | Path,
        quality: int | None = None,
        target_bpp: float | None = None,
        verify: bool = False,
    ) -> bytes:
        """A picture as the contents of a .dkic file.

        Args:
            image: PIL image, numpy uint8 `[H, W, 3]` or `[H, W]`, torch `[3, H, W]` (uint8, or float in [0, 1]), or a path.
            quality: one of `qualities`; the highest by default.
            target_bpp: instead of quality: the highest level whose file takes at most this many bits per pixel.
            verify: decode the symbols of what was coded again, without the picture.

        Raises:
            DkicError: the picture can't be coded, there is no such quality, no level reaches target_bpp, or with `verify` the
                symbols were not decoded as they were coded.
        """
        picture = picture_from(image)
        if target_bpp is None:
            return self._verified(self._compress(picture, self.qualities[-1] if quality is None else quality), verify)
        if quality is not None:
            raise DkicError("give quality or target_bpp, not both")
        for level in reversed(self.qualities):
            data = self._compress(picture, level)
            bpp = len(data) * 8 / (picture.width * picture.height)
            if bpp <= target_bpp:
                return self._verified(data, verify)
        raise DkicError(f"no quality level reaches {target_bpp:g} bits per pixel; the lowest takes {bpp:.3f} for this picture")

    def _compress(self, picture: Picture, quality: int) -> bytes:
        if quality not in self._levels:
            raise DkicError(f"this model has no quality {quality}; it has {', '.join(map(str, self.qualities))}")
        level = self._levels[quality]
        x = torch.from_numpy(picture.pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        header = Header(picture.width, picture.height, level.hash, level.quality, int(level.arithmetic), picture.grayscale)
        return pack(DkicFile(header, encode(x, level), picture.icc))

    def _verified(self, data: bytes, verify: bool) -> bytes:
        if verify:
            file = unpack(data)
            try:
                decode_latent(file, self._level_of(file))
            except FormatError as error:
                report = "report this, with the output of `dkic doctor`"
                raise DkicError(f"what was coded is not decoded again: {error}; {report}") from None
        return data

    def _level_of(self, file: DkicFile) -> Weights:
        model_hash = file.header.model_hash
        level = next((level for level in self._levels.values() if level.hash == model_hash), None)
        if level is None:
            have = ", ".join(level.hash.hex() for level in self._levels.values())
            raise DkicError(f"the file was made with model {model_hash.hex()}, and this is {have}; load that model")
        return level

    @overload
    def decompress(self, data: bytes, output: Literal["pil"] = "pil") -> Image.Image: ...
    @overload
    def decompress(self, data: bytes, output: Literal["numpy"]) -> np.ndarray: ...
    @overload
    def decompress(self, data: bytes, output: Literal["torch"]) -> Tensor: ...
    @overload
    def decompress(self, data: bytes, output: Literal["picture"]) -> Picture: ...
    def decompress(
        self, data: bytes, output: Literal["pil", "numpy", "torch", "picture"] = "pil"
    ) -> Image.Image | np.ndarray | Tensor | Picture:
        """The picture in the contents of a .dkic file.

        Args:
            data: what `compress` returned.
            output: "pil": PIL image, RGB or L, its ICC profile in `info`; "numpy": uint8 `[H, W, 3]`; "torch": uint8 `[3, H, W]`;
                "picture": a `dkic.coding.image_io.Picture`, for writing.

        Raises:
            FormatError: data is damaged, or was made under other arithmetic. DkicError: it needs another model.
        """
        if output not in ("pil", "numpy", "torch", "picture"):
            raise DkicError(f"output must be pil, numpy, torch or picture, not {output}")
        file = unpack(data)
        level = self._level_of(file)
        pixels = _decoded_pixels(file, level)
        if output == "numpy":
            return pixels
        if output == "torch":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        picture = Picture(pixels, file.header.grayscale, file.icc)
        return picture if output == "picture" else to_pil(picture)


def load(model: str | Path = "tiny", device: str | torch.device = "cpu") -> Codec:
    """A codec, ready to use.

    Args:
        model: name of a shipped model ("tiny"), a weights file, or a folder with one file for each quality.
        device: where to compute; the CPU only, so far.

    Raises:
        DkicError: no such model, a damaged weights file, or a device that dkic can't use; the message says what would be right.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise DkicError(f"no such device: {device!r}; use cpu") from None
    if device.type != "cpu":
        raise DkicError(f"dkic runs its codec on the CPU only so far, not on {device}")
    if reason := backends.load_cpu():
        raise DkicError(reason)
    return Codec([load_weights(path) for path in find_weights(model)])


def encode(x: Tensor, level: Weights) -> bytes:
    """x `[1, 3, H, W]` float32 in [0, 1], any size -> the picture section's payload."""
    return encode_latent(*analyse(x, level), level)


def analyse(x: Tensor, level: Weights) -> tuple[Tensor, Tensor]:
    """x -> y and z_hat, the integers z is coded as: all that coding knows of a picture."""
    y = level.model.g_a(_padded(x))
    return y, level.model.h_a(y).round()


def encode_latent(y: Tensor, z_hat: Tensor, level: Weights) -> bytes:
    """y `[1, M, h, w]` and z_hat `[1, hyper_channels, h/4, w/4]` -> the picture section's payload."""
    coder, crc = Encoder(level.tables), 0
    for symbols, indexes in symbols_of(y, z_hat, level):
        coder.push(symbols, indexes)
        crc = _crc(symbols, crc)
    return struct.pack("<I", crc) + coder.finish()


def symbols_of(y: Tensor, z_hat: Tensor, level: Weights) -> list[tuple[Tensor, Tensor]]:
    """All symbols of a picture with their table indexes, int32 and uint8 `[n]` each, in coding order: z, then y pass by pass."""
    dtype = level.arithmetic.dtype
    # Contiguous, as what the decoder pulls is: another layout may take another path through a convolution.
    z_hat = z_hat.to(dtype).contiguous()
    coded = [(_flat(z_hat), _z_indexes(z_hat.shape))]

    def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
        mean = coded_mean(mean)
        symbols = (take_cells(y[:, channels], cells).double() - mean).round().contiguous()
        coded.append((_flat(symbols), coded_index(scale_index).flatten()))
        return symbols.to(dtype) + mean

    level.model.context(level.model.h_s(z_hat), visit)
    return coded


@torch.inference_mode()
def _decoded_pixels(file: DkicFile, level: Weights) -> np.ndarray:
    """uint8 `[H, W, 3]`; three equal channels where the file is grayscale."""
    x_hat = decode(file, level)
    pixels = x_hat[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return np.repeat(pixels[:, :, 1:2], 3, axis=2) if file.header.grayscale else pixels


def decode(file: DkicFile, level: Weights) -> Tensor:
    """The picture section -> x_hat `[1, 3, H, W]` float32, not clamped. Raises FormatError."""
    y_hat = decode_latent(file, level)
    x_hat = level.model.g_s(y_hat.float().contiguous(memory_format=torch.channels_last))
    return x_hat[..., : file.header.height, : file.header.width]


def decode_latent(file: DkicFile, level: Weights) -> Tensor:
    """The picture section -> y_hat `[1, M, h, w]`, all its symbols checked. Raises FormatError."""
    header = file.header
    if header.arithmetic != level.arithmetic:
        known = header.arithmetic in list(Arithmetic)
        name = str(Arithmetic(header.arithmetic)) if known else f"number {header.arithmetic}, which this dkic does not know"
        raise FormatError(f"header: the file needs arithmetic {name}, and its model {level.hash.hex()} has {level.arithmetic}")
    if len(file.picture) < 4:
        raise FormatError("picture section: too short to hold a picture")
    model, crc = level.model, 0
    height, width = (-(-side // SIZE_MULTIPLE) for side in (header.height, header.width))

    def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
        return pull(coded_index(scale_index).flatten()).view(mean.shape) + coded_mean(mean)

    def pull(indexes: Tensor) -> Tensor:
        nonlocal crc
        symbols = coder.pull(indexes)
        crc = _crc(symbols, crc)
        return symbols.to(level.arithmetic.dtype)

    try:
        coder = Decoder(file.picture[4:], level.tables)
        z_shape = (1, model.config.hyper_channels, height, width)
        z_hat = pull(_z_indexes(z_shape)).view(z_shape)
        y_hat = model.context(model.h_s(z_hat), visit)
        coder.finish()
    except FormatError as error:
        raise FormatError(f"picture section: {_OTHER_ARITHMETIC} ({error})") from None
    if struct.pack("<I", crc) != file.picture[:4]:
        raise FormatError(f"picture section: {_OTHER_ARITHMETIC} (the symbols' checksum is wrong)")
    return y_hat


def _padded(x: Tensor) -> Tensor:
    """To a multiple of 64 by repeating the last row and column, which costs few bits and shows no edge."""
    h, w = x.shape[-2:]
    x = F.pad(x, (0, -w % SIZE_MULTIPLE, 0, -h % SIZE_MULTIPLE), mode="replicate")
    return x.contiguous(memory_format=torch.channels_last)


def _flat(symbols: Tensor) -> Tensor:
    """To int32 in the order of [C, h, w]. float32 latents beyond int32 can't come from a picture, but from broken weights."""
    if not symbols.abs().amax() < 2**31:
        raise DkicError("the model's latent is not finite or far too large; its weights are broken")
    return symbols.to(torch.int32).flatten()


def _z_indexes(shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Channel c of z has table 64 + c."""
    _, c, h, w = shape
    return torch.arange(SCALE_INDEX_MAX + 1, SCALE_INDEX_MAX + 1 + c).to(torch.uint8).repeat_interleave(h * w)


def _crc(symbols: Tensor, crc: int) -> int:
    return crc32c(symbols.contiguous().numpy().astype("<i4", copy=False).tobytes(), crc)
