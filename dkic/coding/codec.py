"""Pictures to bytes and back.

encode  image_io -> x -> transforms.analyse -> y, z_hat -> latent.encode_latent -> container -> file
decode  the mirror image of it
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from dkic import hub
from dkic.coding.color_profile import is_srgb
from dkic.coding.container import MAX_QSTEP, DkicFile, Header, icc_section_bytes, pack, unpack
from dkic.coding.image_color import fitting_profile
from dkic.coding.image_io import Picture, picture_from, to_pil
from dkic.coding.latent import decode_latent, encode_latent
from dkic.coding.operating_points import (
    OperatingPoint,
    chosen_among,
    every_operating_point,
    last_within,
    measured_first,
    named,
    operating_points,
)
from dkic.coding.transforms import analyse, synthesise
from dkic.entropy.quantization import Arithmetic
from dkic.errors import DkicError, FormatError
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.weights_file import Weights, find_weights, load_weights
from dkic.ops import backends

if TYPE_CHECKING:
    from PIL import Image


DEFAULT_QUALITY = 50  # of a variable-rate model
_DROP_PROFILE = 'leave it out with --icc drop (icc="drop" in Python), which shows its colors as sRGB'


class Codec:
    """A model at its qualities. Make it with `dkic.load`."""

    def __init__(self, levels: list[Weights]) -> None:
        self.variable_rate = any(level.model.variable_rate for level in levels)
        if self.variable_rate and len(levels) > 1:
            others = ", ".join(str(level.path) for level in levels)
            raise DkicError(f"a variable-rate model is one weights file, not one of {others}; give the path of one of them")
        self._levels = {quality: level for level in levels for quality in level.qualities}
        if len(self._levels) < sum(len(level.qualities) for level in levels):
            raise DkicError(f"two weights files have the same quality: {', '.join(str(level.path) for level in levels)}")

    @property
    def qualities(self) -> list[int]:
        """The qualities there are, in rising order of rate; 1 to 100 of a variable-rate model."""
        return sorted(self._levels)

    @property
    def measured_first(self) -> list[OperatingPoint]:
        """Where an image is measured before it is allocated a quality, in rising order of rate."""
        if self.variable_rate:
            return measured_first(self.qualities)
        return [OperatingPoint(quality, 0) for quality in self.qualities]

    @property
    def chosen_among(self) -> list[OperatingPoint]:
        """What an image is allocated one of, in rising order of rate."""
        return chosen_among(self.qualities) if self.variable_rate else operating_points(self.qualities)

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
        qstep: int = 0,
        icc: Literal["keep", "drop"] = "keep",
        background: str | None = None,
    ) -> bytes:
        """A picture as the contents of a .dkic file.

        Args:
            image: PIL image, numpy uint8 `[H, W, 3]` or `[H, W]`, torch `[3, H, W]` (uint8, or float in [0, 1]), or a path.
            quality: one of `qualities`; by default 50 of a variable-rate model, and the highest of others.
            target_bpp: instead of quality: the operating point (see `dkic.coding.operating_points`) whose file takes most of this
                many bits per pixel, and no more.
            verify: decode the symbols of what was coded again, without the picture.
            tile: side of the tiles that the picture is transformed in, a multiple of 64, to bound memory; 0: the whole picture at
                once. By default 1024 above 4 megapixels. Where pictures are cut changes their latents in rounding only.
            qstep: finer control of the quantizer, -8 to 8: each up saves about a tenth of the bits, but of the lowest quality,
                whose bits soon are no fewer. 0 is what a network was trained for. Of a variable-rate model it is a 16th of the
                way to the next quality.
            icc: "keep" stores the image's ICC profile, unless it is sRGB's, which is what an image without one has; it counts
                in target_bpp. "drop" leaves it out: colors of a wider space are then displayed as sRGB.
            background: color that transparency is flattened onto ("white", "#ffffff"); None: a transparent image is an error.

        Warns:
            UserWarning: what the image's file says of its colors was left out, and why.

        Raises:
            DkicError: the picture can't be coded, there is no such quality or qstep, nothing reaches target_bpp, or with `verify`
                the symbols were not decoded as they were coded.
        """
        if icc not in ("keep", "drop"):
            raise DkicError(f"icc must be keep or drop, not {icc!r}")
        picture = picture_from(image, background)
        picture = replace(picture, icc=stored_profile(picture, icc))
        if not isinstance(image, Picture):
            for note in picture.notes:
                warnings.warn(f"{_name_of(image)}: {note}", stacklevel=3)  # past torch.inference_mode's wrapper
        _check_tile(tile)
        if qstep not in range(-MAX_QSTEP, MAX_QSTEP + 1):
            raise DkicError(f"qstep must be a whole number from {-MAX_QSTEP} to {MAX_QSTEP}, not {qstep}")
        if target_bpp is None:
            quality = self._default_quality() if quality is None else quality
            level = self._level(quality)
            point = OperatingPoint(int(quality), int(qstep))
            level.quality_at(*point)  # raises, before the work
            return self._verified(_packed(picture, level, self._analysed(picture, level, tile), point), verify)
        if quality is not None or qstep:
            raise DkicError(f"give {'qstep' if quality is None else 'quality'} or target_bpp, not both")
        return self._verified(self._within(picture, target_bpp, tile), verify)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the weights files into a folder, which `dkic.load` takes; see `dkic.hub.save`."""
        hub.save(self._levels.values(), save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, device: str | torch.device = "cpu", **download: Any
    ) -> Codec:
        """The codec of a local folder or of a repository "owner/name".

        Args:
            device: as for `dkic.load`.
            download: revision, cache_dir, token, force_download and local_files_only, as for `dkic.hub.download`.

        Raises:
            DkicError: as `dkic.load`.
        """
        name = pretrained_model_name_or_path
        return load(hub.download(str(name), **download) if hub.is_repository(name) else name, device)

    def push_to_hub(self, repo_id: str, **upload: Any) -> str:
        """Uploads the weights files to a repository "owner/name"; returns the commit's address.

        Args:
            upload: commit_message, private, token, branch and create_pr, as for `dkic.hub.push`.

        Raises:
            DkicError: huggingface_hub is not installed, or the repository can't be written.
        """
        return hub.push(self._levels.values(), repo_id, **upload)

    def model_hash(self, quality: int) -> bytes:
        """What names one of `qualities` in the files made with it."""
        return self._level(quality).hash

    def _within(self, picture: Picture, target_bpp: float, tile: int | None) -> bytes:
        """The file that takes most of a target."""
        points = every_operating_point(self.qualities) if self.variable_rate else operating_points(self.qualities)
        pixels = picture.width * picture.height
        files: dict[int, bytes] = {}  # by point

        latents: dict[bytes, tuple[Tensor, Tensor | None]] = {}  # of one network, which serves all its operating points

        def latent(level: Weights) -> tuple[Tensor, Tensor | None]:
            if level.hash not in latents:
                latents.clear()
                latents[level.hash] = self._analysed(picture, level, tile)
            return latents[level.hash]

        def within(point: int) -> bool:
            level = self._level(points[point].quality)
            files[point] = _packed(picture, level, latent(level), points[point])
            return len(files[point]) * 8 / pixels <= target_bpp

        point = last_within(len(points), within)
        if point < 0:  # of a small or an odd picture a higher level may take less
            coarse = set(self.measured_first)  # of a variable-rate model not all 100, which would take minutes
            levels = (i for i in reversed(range(len(points))) if points[i] in coarse and i not in files)
            point = next(filter(within, levels), -1)
        if point < 0:
            least = min(map(len, files.values())) * 8 / pixels
            reached = f"the lowest takes {least:.6g} for this picture"
            if picture.icc:
                size = icc_section_bytes(picture.icc)
                reached += f", {size * 8 / pixels:.6g} of it for an ICC profile of {size:,} bytes; {_DROP_PROFILE}"
            raise DkicError(f"no quality level reaches {target_bpp:g} bits per pixel; {reached}")
        return files[point]

    def _analysed(self, picture: Picture, level: Weights, tile: int | None) -> tuple[Tensor, Tensor | None]:
        pixels = picture.pixels
        if not pixels.flags.writeable or min(pixels.strides) < 0:  # torch warns of the one, and takes none of the other
            pixels = pixels.copy()
        return analyse(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0), level, tile)

    def _default_quality(self) -> int:
        return DEFAULT_QUALITY if self.variable_rate else self.qualities[-1]

    def _level(self, quality: int) -> Weights:
        if quality not in self._levels:
            raise DkicError(f"this model has no quality {quality}; it has {named(self.qualities)}")
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
            have = ", ".join(dict.fromkeys(level.hash.hex() for level in self._levels.values()))
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
        icc, notes = fitting_profile(file.icc, file.header.grayscale) if file.icc else (None, [])
        picture = Picture(pixels, file.header.grayscale, icc, tuple(notes))
        if output == "picture":
            return picture
        for note in notes:
            warnings.warn(f"the file: {note}", stacklevel=2)
        return to_pil(picture)


def load(model: str | Path = "tiny", device: str | torch.device = "cpu") -> Codec:
    """A codec, ready to use.

    Args:
        model: name of a shipped model ("tiny"), a weights file, a folder with one file for each quality, or a repository of the
            Hugging Face Hub ("owner/name"), which is downloaded where there is no local path of that name (extra `[hub]`).
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
    levels = [load_weights(path) for path in find_weights(hub.download(str(model)) if hub.is_repository(model) else model)]
    if device.type == "cuda":
        for level in levels:
            _move(level, device)
    return Codec(levels)


def _move(level: Weights, device: torch.device) -> None:
    """Have a level compute there."""
    if level.arithmetic != Arithmetic.EXACT:
        raise DkicError(f"{level.path}: weights of arithmetic {level.arithmetic} decide alike on CPUs alone; use cpu")
    level.model.to(device)


def stored_profile(picture: Picture, icc: Literal["keep", "drop"]) -> bytes | None:
    """The profile that goes into the picture's file; icc: as `Codec.compress` has it."""
    if icc == "drop" or not picture.icc or is_srgb(picture.icc, picture.grayscale):
        return None
    return picture.icc


def _name_of(image: object) -> str:
    return str(image) if isinstance(image, str | Path) else "the image"


def _packed(picture: Picture, level: Weights, latent: tuple[Tensor, Tensor | None], point: OperatingPoint) -> bytes:
    """The file of a picture that was analysed."""
    arithmetic = int(level.arithmetic)
    header = Header(picture.width, picture.height, level.hash, point.quality, arithmetic, picture.grayscale, point.qstep)
    return pack(DkicFile(header, encode_latent(*latent, level, *point), picture.icc))


@torch.inference_mode()
def _decoded_pixels(file: DkicFile, level: Weights, tile: int | None) -> np.ndarray:
    """uint8 `[H, W, 3]`; three equal channels where the file is grayscale."""
    y_hat = decode_latent(file, level).float()
    header = file.header
    quality = level.quality_at(header.quality, header.qstep)
    picture = synthesise(y_hat, header.height, header.width, level, tile, quality)
    pixels = picture[0].permute(1, 2, 0).contiguous().numpy()
    return np.repeat(pixels[:, :, 1:2], 3, axis=2) if file.header.grayscale else pixels


def _check_tile(tile: int | None) -> None:
    if tile is not None and (tile < 0 or tile % SIZE_MULTIPLE):
        raise DkicError(f"tile must be a multiple of {SIZE_MULTIPLE}, or 0 for the whole picture at once, not {tile}")
