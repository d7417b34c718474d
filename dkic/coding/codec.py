"""Pictures to bytes and back.

    encode  image_io -> x -> g_a -> y -> h_a -> z -> round -> rANS ---------------------------+
            z_hat -> h_s -> for each slice, each pass: context -> (mean, scale index)         |
                  -> round((y - mean) / size) -> rANS ----------------------------------------+-> container -> file
    decode  the mirror image of it;  y_hat -> g_s -> x_hat -> image_io

The picture section is 4 bytes, the CRC32C of all symbols as little-endian int32 in coding order, then the rANS stream of z
(each channel with its own table) and of y (slice after slice, pass after pass). The size implies the padding to a multiple of 64.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
from torch import Tensor

from dkic.coding.container import MAX_STEP, DkicFile, Header, crc32c, pack, unpack
from dkic.coding.image_io import Picture, picture_from, to_pil
from dkic.coding.ladder import ladder, last_within
from dkic.coding.rans import Decoder, Encoder
from dkic.coding.tiles import MARGIN, tile_side, tiled
from dkic.entropy.quantization import SCALE_INDEX_MAX, Arithmetic, arithmetic_name, coded_index, coded_mean, step_size
from dkic.errors import DkicError, FormatError
from dkic.memory import give_back_freed_memory
from dkic.models.config import LATENT_STRIDE
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.slice_context import Cells, take_cells
from dkic.models.weights_file import Weights, find_weights, load_weights
from dkic.ops import backends

if TYPE_CHECKING:
    from PIL import Image

_LARGE = 2**16  # positions of a latent, of 16 megapixels
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

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self._levels[self.qualities[0]].device

    @torch.inference_mode()
    def compress(
        self,
        image: Picture | Image.Image | np.ndarray | Tensor | str | Path,
        quality: int | None = None,
        target_bpp: float | None = None,
        verify: bool = False,
        tile: int | None = None,
        step: int = 0,
    ) -> bytes:
        """A picture as the contents of a .dkic file.

        Args:
            image: PIL image, numpy uint8 `[H, W, 3]` or `[H, W]`, torch `[3, H, W]` (uint8, or float in [0, 1]), or a path.
            quality: one of `qualities`; the highest by default.
            target_bpp: instead of quality: the level and step (see `dkic.coding.ladder`) whose file takes most of this many bits
                per pixel, and no more.
            verify: decode the symbols of what was coded again, without the picture.
            tile: side of the tiles that the picture is transformed in, a multiple of 64, to bound memory; 0: the whole picture at
                once. By default 1024 above 4 megapixels. Where pictures are cut changes their latents in rounding only.
            step: how coarsely the latent is quantised, -8 to 8: each step up saves about a tenth of the bits, but the lowest
                level's, which soon are no fewer. 0 is what a level was trained for.

        Raises:
            DkicError: the picture can't be coded, there is no such quality or step, nothing reaches target_bpp, or with `verify`
                the symbols were not decoded as they were coded.
        """
        picture = picture_from(image)
        _check_tile(tile)
        if step not in range(-MAX_STEP, MAX_STEP + 1):
            raise DkicError(f"step must be a whole number from {-MAX_STEP} to {MAX_STEP}, not {step}")
        if target_bpp is None:
            level = self._level(self.qualities[-1] if quality is None else quality)
            return self._verified(_packed(picture, level, self._analysed(picture, level, tile), int(step)), verify)
        if quality is not None or step:
            raise DkicError(f"give {'step' if quality is None else 'quality'} or target_bpp, not both")
        return self._verified(self._within(picture, target_bpp, tile), verify)

    def model_hash(self, quality: int) -> bytes:
        """What names one of `qualities` in the files made with it."""
        return self._level(quality).hash

    def _within(self, picture: Picture, target_bpp: float, tile: int | None) -> bytes:
        """The file that takes most of a target."""
        rungs, pixels = ladder(self.qualities), picture.width * picture.height
        files: dict[int, bytes] = {}  # by rung

        latents: dict[int, tuple[Tensor, Tensor]] = {}  # of one level, which serves all its steps

        def latent(quality: int) -> tuple[Tensor, Tensor]:
            if quality not in latents:
                latents.clear()
                latents[quality] = self._analysed(picture, self._level(quality), tile)
            return latents[quality]

        def within(rung: int) -> bool:
            quality, step = rungs[rung]
            files[rung] = _packed(picture, self._level(quality), latent(quality), step)
            return len(files[rung]) * 8 / pixels <= target_bpp

        rung = last_within(len(rungs), within)
        if rung < 0:  # of a small or an odd picture a higher level may take less
            levels = (i for i in reversed(range(len(rungs))) if rungs[i][1] == 0 and i not in files)
            rung = next(filter(within, levels), -1)
        if rung < 0:
            least = min(map(len, files.values())) * 8 / pixels
            reached = f"the lowest takes {least:.6g} for this picture"
            raise DkicError(f"no quality level reaches {target_bpp:g} bits per pixel; {reached}")
        return files[rung]

    def _analysed(self, picture: Picture, level: Weights, tile: int | None) -> tuple[Tensor, Tensor]:
        pixels = picture.pixels
        if not pixels.flags.writeable or min(pixels.strides) < 0:  # torch warns of the one, and takes none of the other
            pixels = pixels.copy()
        return analyse(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0), level, tile)

    def _level(self, quality: int) -> Weights:
        if quality not in self._levels:
            raise DkicError(f"this model has no quality {quality}; it has {', '.join(map(str, self.qualities))}")
        return self._levels[quality]

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
    def decompress(
        self, data: bytes | DkicFile, output: Literal["pil"] = "pil", *, salvage: bool = ..., tile: int | None = ...
    ) -> Image.Image: ...
    @overload
    def decompress(
        self, data: bytes | DkicFile, output: Literal["numpy"], *, salvage: bool = ..., tile: int | None = ...
    ) -> np.ndarray: ...
    @overload
    def decompress(
        self, data: bytes | DkicFile, output: Literal["torch"], *, salvage: bool = ..., tile: int | None = ...
    ) -> Tensor: ...
    @overload
    def decompress(
        self, data: bytes | DkicFile, output: Literal["picture"], *, salvage: bool = ..., tile: int | None = ...
    ) -> Picture: ...
    def decompress(
        self,
        data: bytes | DkicFile,
        output: Literal["pil", "numpy", "torch", "picture"] = "pil",
        *,
        salvage: bool = False,
        tile: int | None = None,
    ) -> Image.Image | np.ndarray | Tensor | Picture:
        """The picture in the contents of a .dkic file.

        Args:
            data: what `compress` returned, or that as `dkic.coding.container.unpack` reads it.
            output: "pil": PIL image, RGB or L, its ICC profile in `info`; "numpy": uint8 `[H, W, 3]`; "torch": uint8 `[3, H, W]`;
                "picture": a `dkic.coding.image_io.Picture`, for writing.
            salvage: decode a file with damage behind its picture section too, with a warning for each thing that is lost.
            tile: as in `compress`, whatever the encoder's was.

        Raises:
            FormatError: data is damaged, or was made under other arithmetic. DkicError: it needs another model.
        """
        if output not in ("pil", "numpy", "torch", "picture"):
            raise DkicError(f"output must be pil, numpy, torch or picture, not {output}")
        _check_tile(tile)
        file = data if isinstance(data, DkicFile) else unpack(data, salvage=salvage)
        if file is not data:
            for lost in file.lost:
                warnings.warn(lost, stacklevel=2)
        level = self._level_of(file)
        pixels = _decoded_pixels(file, level, tile)
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
        device: where the networks compute, "cpu" or "cuda"; files are the same to every decoder, wherever that computes.

    Raises:
        DkicError: no such model, a damaged weights file, or a device that dkic can't use; the message says what would be right.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise DkicError(f"no such device: {device!r}; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise DkicError(f"the codec computes on cpu or cuda, not on {device}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DkicError(f"torch finds no GPU for {device} here; use cpu, or see what `dkic doctor` says")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DkicError(f"torch finds no {device} here: its GPUs are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if reason := backends.load_cpu() or backends.why_not("ldcn", device):
        raise DkicError(reason)
    levels = [load_weights(path) for path in find_weights(model)]
    if device.type == "cuda":
        for level in levels:
            _move(level, device)
    return Codec(levels)


def _move(level: Weights, device: torch.device) -> None:
    """Have a level compute there."""
    if level.arithmetic != Arithmetic.EXACT:
        raise DkicError(f"{level.path}: weights of arithmetic {level.arithmetic} decide alike on CPUs alone; use cpu")
    level.model.to(device)


def _packed(picture: Picture, level: Weights, latent: tuple[Tensor, Tensor], step: int) -> bytes:
    """The file of a picture that was analysed."""
    arithmetic = int(level.arithmetic)
    header = Header(picture.width, picture.height, level.hash, level.quality, arithmetic, picture.grayscale, step)
    return pack(DkicFile(header, encode_latent(*latent, level, step), picture.icc))


def analyse(x: Tensor, level: Weights, tile: int | None = None) -> tuple[Tensor, Tensor]:
    """x `[1, 3, H, W]`, uint8 or float32 in [0, 1], any size -> y and z_hat, the integers z is coded as.

    They are all that coding knows of a picture.
    """
    side, device = tile_side(*x.shape[-2:], tile), level.device
    x = _padded(x)
    height, width = (side // LATENT_STRIDE for side in x.shape[-2:])
    channels = level.model.config.latent_channels
    y = torch.empty((1, channels, height, width), device=device, memory_format=torch.channels_last)

    def write(part: Tensor, top: int, left: int) -> None:
        y[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part

    def g_a(part: Tensor) -> Tensor:
        part = part.to(device)
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        return level.model.g_a(part.contiguous(memory_format=torch.channels_last))

    tiled(g_a, x, side, MARGIN, write)
    return y, level.model.h_a(y).round()


def encode_latent(y: Tensor, z_hat: Tensor, level: Weights, step: int = 0) -> bytes:
    """y `[1, M, h, w]` and z_hat `[1, hyper_channels, h/4, w/4]` -> the picture section's payload."""
    coder, crc = Encoder(level.tables), 0
    for symbols, indexes in symbols_of(y, z_hat, level, step):
        coder.push(symbols, indexes)
        crc = _crc(symbols, crc)
    return struct.pack("<I", crc) + coder.finish()


def symbols_of(y: Tensor, z_hat: Tensor, level: Weights, step: int = 0) -> list[tuple[Tensor, Tensor]]:
    """All symbols of a picture with their table indexes, int32 and uint8 `[n]` each, in coding order: z, then y pass by pass.

    They are on the CPU, where the coder is.
    """
    dtype, size = level.arithmetic.dtype, step_size(step)
    # Contiguous, as what the decoder pulls is: another layout may take another path through a convolution.
    z_hat = z_hat.to(dtype).contiguous()
    coded = [(_flat(z_hat), _z_indexes(z_hat.shape))]

    def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
        _bound_memory(y.shape[-2] * y.shape[-1])
        mean = coded_mean(mean)
        # The encoder's choice, so float32 will do.
        symbols = (take_cells(y[:, channels], cells) - mean).div_(size).round_().contiguous()
        coded.append((_flat(symbols), coded_index(scale_index, step).flatten().cpu()))
        return symbols.to(dtype).mul_(size).add_(mean)

    level.model.context(level.model.h_s(z_hat), visit)
    return coded


@torch.inference_mode()
def _decoded_pixels(file: DkicFile, level: Weights, tile: int | None) -> np.ndarray:
    """uint8 `[H, W, 3]`; three equal channels where the file is grayscale."""
    pixels = decode(file, level, tile)[0].permute(1, 2, 0).contiguous().numpy()
    return np.repeat(pixels[:, :, 1:2], 3, axis=2) if file.header.grayscale else pixels


def decode(file: DkicFile, level: Weights, tile: int | None = None) -> Tensor:
    """The picture section -> the picture `[1, 3, H, W]`, uint8, channels_last. Raises FormatError."""
    y_hat = decode_latent(file, level).float()
    height, width = file.header.height, file.header.width
    picture = torch.empty((1, 3, height, width), dtype=torch.uint8, memory_format=torch.channels_last)

    def write(part: Tensor, top: int, left: int) -> None:
        part = part[..., : height - top, : width - left]  # without the padding
        picture[..., top : top + part.shape[-2], left : left + part.shape[-1]] = part.clamp(0, 1).mul(255).round().to(torch.uint8)

    def g_s(part: Tensor) -> Tensor:
        return level.model.g_s(part.contiguous(memory_format=torch.channels_last))

    tiled(g_s, y_hat, tile_side(height, width, tile) // LATENT_STRIDE, MARGIN // LATENT_STRIDE, write)
    return picture


def decode_latent(file: DkicFile, level: Weights) -> Tensor:
    """The picture section -> y_hat `[1, M, h, w]`, all its symbols checked. Raises FormatError."""
    header = file.header
    if header.arithmetic != level.arithmetic:
        name = arithmetic_name(header.arithmetic)
        raise FormatError(f"header: the file needs arithmetic {name}, and its model {level.hash.hex()} has {level.arithmetic}")
    if len(file.picture) < 4:
        raise FormatError("picture section: too short to hold a picture")
    model, size, crc = level.model, step_size(header.step), 0
    height, width = (-(-side // SIZE_MULTIPLE) for side in (header.height, header.width))

    def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
        _bound_memory(16 * height * width)
        symbols = pull(coded_index(scale_index, header.step).flatten().cpu()).view(mean.shape)
        return symbols.mul_(size).add_(coded_mean(mean))

    def pull(indexes: Tensor) -> Tensor:
        nonlocal crc
        symbols = coder.pull(indexes)
        crc = _crc(symbols, crc)
        return symbols.to(level.device, level.arithmetic.dtype)

    z_shape = (1, model.config.hyper_channels, height, width)
    _check_claim(file, level, height * width)
    try:
        coder = Decoder(file.picture[4:], level.tables)
        z_hat = pull(_z_indexes(z_shape)).view(z_shape)
        y_hat = model.context(model.h_s(z_hat), visit)
        coder.finish()
    except FormatError as error:
        raise FormatError(f"picture section: {_OTHER_ARITHMETIC} ({error})") from None
    if struct.pack("<I", crc) != file.picture[:4]:
        raise FormatError(f"picture section: {_OTHER_ARITHMETIC} (the symbols' checksum is wrong)")
    return y_hat


def _check_claim(file: DkicFile, level: Weights, positions: int) -> None:
    """Refuses, before memory is taken for it, a size that the picture section is too short for whatever it holds.

    positions: of z, each with 4 x 4 of y. However flat a picture is, its symbols take at least the bits of their tables'
    likeliest; 1/1000 is for the coder's rounding of its states, which is less than 2^-15.
    """
    least = level.tables.least_bits()
    y_least, z_least = least[: SCALE_INDEX_MAX + 1].min(), least[SCALE_INDEX_MAX + 1 :].sum()
    bits = positions * (z_least + 16 * level.model.config.latent_channels * y_least)
    needed = 4 + int(0.999 * bits / 8)
    if len(file.picture) < needed:
        raise FormatError(
            f"picture section: {len(file.picture)} bytes can't hold {file.header.width} x {file.header.height} pixels, for which "
            f"this model takes at least {needed}, so the file is damaged"
        )


def _bound_memory(positions: int) -> None:
    """Of a large picture's latent every pass leaves gaps of its own sizes, which together took 0.6 GB at 8192x8192."""
    if positions > _LARGE:
        give_back_freed_memory()


def _padded(x: Tensor) -> Tensor:
    """To a multiple of 64 by repeating the last row and column, which costs few bits and shows no edge."""
    h, w = x.shape[-2:]
    rows, columns = (torch.arange(side + -side % SIZE_MULTIPLE).clamp_max(side - 1) for side in (h, w))
    return x if len(rows) == h and len(columns) == w else x[..., rows[:, None], columns]


def _check_tile(tile: int | None) -> None:
    if tile is not None and (tile < 0 or tile % SIZE_MULTIPLE):
        raise DkicError(f"tile must be a multiple of {SIZE_MULTIPLE}, or 0 for the whole picture at once, not {tile}")


def _flat(symbols: Tensor) -> Tensor:
    """To int32 on the CPU, in the order of [C, h, w].

    float32 latents beyond int32 can't come from a picture, but from broken weights.
    """
    if not symbols.abs().amax() < 2**31:
        raise DkicError("the model's latent is not finite or far too large; its weights are broken")
    return symbols.to(torch.int32).flatten().cpu()


def _z_indexes(shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Channel c of z has table 64 + c."""
    _, c, h, w = shape
    return torch.arange(SCALE_INDEX_MAX + 1, SCALE_INDEX_MAX + 1 + c).to(torch.uint8).repeat_interleave(h * w)


def _crc(symbols: Tensor, crc: int) -> int:
    return crc32c(symbols.contiguous().numpy().astype("<i4", copy=False).tobytes(), crc)
