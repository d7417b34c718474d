"""`Codec`: images to the contents of .dkic files and back.

encode  image_conversion -> x -> transforms.analyze -> y, z_hat -> latent.encode_latent -> container -> file
decode  the reverse
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from dkic import hub
from dkic.coding.color_profile import is_srgb
from dkic.coding.container import MAX_QSTEP, DkicFile, Header, icc_section_bytes, pack, unpack
from dkic.coding.image_color import fitting_profile
from dkic.coding.image_conversion import image_from
from dkic.coding.image_data import ImageData, to_pil
from dkic.coding.latent import decode_latent, encode_latent
from dkic.coding.operating_points import (
    OperatingPoint,
    OperatingPoints,
    SeparateNetworks,
    VariableRate,
    last_within,
    named,
)
from dkic.coding.transforms import analyze, synthesize
from dkic.entropy.arithmetic import Arithmetic
from dkic.errors import DkicError, FormatError
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.models.weights_file import Weights, load_weights
from dkic.ops import backends
from dkic.shipped_weights import DEFAULT_MODEL, find_by_hash

if TYPE_CHECKING:
    from PIL import Image


_DROP_PROFILE = 'drop it with --icc drop (icc="drop" in Python); its colors are then displayed as sRGB'


class Codec:
    """A model at its qualities. Create it with `dkic.load`.

    Attributes:
        points: its operating points.
    """

    def __init__(self, weights: list[Weights]) -> None:
        self._weights = {quality: one for one in weights for quality in one.qualities}
        self.points = _operating_points(weights, sorted(self._weights))
        if len(self._weights) < sum(len(one.qualities) for one in weights):
            raise DkicError(f"{', '.join(str(one.path) for one in weights)}: two have the same quality; give one file for each")
        self._decoding = {one.hash: one for one in weights}

    @property
    def qualities(self) -> list[int]:
        """The qualities of the model, in rising order of rate; 1 to 100 for a variable-rate model."""
        return self.points.qualities

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self._weights[self.qualities[0]].device

    def weights_of(self, quality: int) -> Weights:
        """The weights that serve one of `qualities`. Raises DkicError for another one."""
        if quality not in self._weights:
            raise DkicError(f"quality {quality}: the model does not have it; use {named(self.qualities)}")
        return self._weights[quality]

    @torch.inference_mode()
    def compress(
        self,
        image: ImageData | Image.Image | np.ndarray | Tensor | str | Path,
        quality: int | None = None,
        target_bpp: float | None = None,
        verify: bool = False,
        tile: int | None = None,
        qstep: int = 0,
        icc: Literal["keep", "drop"] = "keep",
        background: str | None = None,
    ) -> bytes:
        """Encodes an image to the contents of a .dkic file.

        Args:
            image: PIL image, numpy uint8 `[H, W, 3]` or `[H, W]`, torch `[3, H, W]` (uint8, or float in [0, 1]), or a path; see
                `dkic.coding.image_conversion.image_from`.
            quality: one of `qualities`. Default: 50 for a variable-rate model, otherwise the highest.
            target_bpp: instead of quality: upper bound of the bits per pixel. The operating point with the largest file within it
                is used.
            verify: decode the latents again and compare their checksums; the image is not reconstructed.
            tile: side of the tiles in which the image is transformed, a multiple of 64, to bound memory; 0: no tiles. Default:
                1024 above 4 megapixels. Tiling changes the latent only by rounding.
            qstep: quantizer step offset, -8 to 8. Each increment saves about a tenth of the bits, except at the lowest quality,
                where the saving soon ends. Networks are trained for 0. For a variable-rate model one increment is 1/16 of the
                distance to the next lower quality; 8 is not available.
            icc: "keep" stores the ICC profile of the image unless it is sRGB, the default of an image without a profile; its
                bytes count in target_bpp. "drop" removes it: colors of a wider space are then displayed as sRGB.
            background: color that transparency is flattened onto ("white", "#ffffff"); None: a transparent image is an error.

        Warns:
            UserWarning: a color description of the image's file was dropped, and why.

        Raises:
            DkicError: the image can't be coded, there is no such quality or qstep, target_bpp is out of reach, or verification
                failed.
        """
        if icc not in ("keep", "drop"):
            raise DkicError(f"icc: must be keep or drop, not {icc!r}")
        _check_rate(quality, target_bpp)
        data = image_from(image, background)
        data = replace(data, icc=stored_profile(data, icc))
        if not isinstance(image, ImageData):
            for note in data.notes:
                warnings.warn(f"{_name_of(image)}: {note}", stacklevel=3)  # past torch.inference_mode's wrapper
        _check_tile(tile)
        if qstep not in range(-MAX_QSTEP, MAX_QSTEP + 1):
            raise DkicError(f"qstep: must be an integer from {-MAX_QSTEP} to {MAX_QSTEP}, not {qstep}")
        if target_bpp is None:
            quality = self.points.default_quality if quality is None else quality
            weights = self.weights_of(quality)
            point = OperatingPoint(int(quality), int(qstep))
            weights.quality_at(*point)  # raises before the work
            return self._verified(_packed(data, weights, _analyzed(data, weights, tile), point), verify)
        if quality is not None or qstep:
            raise DkicError(f"{'qstep' if quality is None else 'quality'}: can't be combined with target_bpp; give one of them")
        return self._verified(self._within(data, target_bpp, tile), verify)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: None = None,
        **upload: Any,
    ) -> str | None:
        """Writes the weights files into a folder, which `dkic.load` takes; see `dkic.hub.save`.

        Args:
            config, model_card_kwargs: must be None: weights files contain the configuration, and the model card lists them.
            repo_id: repository "owner/name" for push_to_hub; None: the folder's name.
            push_to_hub: whether to upload the files too.
            upload: as for `push_to_hub`, if that is True.

        Returns:
            The commit's address, or None without push_to_hub.

        Raises:
            TypeError: there is no such argument.
            ValueError: config or model_card_kwargs is given.
            DkicError: the folder or the repository can't be written.
        """
        hub.check_arguments("save_pretrained", hub.push, upload, config=config, model_card_kwargs=model_card_kwargs)
        if upload and not push_to_hub:
            raise ValueError(f"save_pretrained/{next(iter(upload))}: is for an upload; give push_to_hub=True too")
        hub.save(self._weights.values(), save_directory)
        return self.push_to_hub(repo_id or Path(save_directory).name, **upload) if push_to_hub else None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, device: str | torch.device = "cpu", **download: Any
    ) -> Codec:
        """The codec of a local folder or of a repository "owner/name".

        Args:
            device: as for `dkic.load`.
            download: revision, cache_dir, token, force_download and local_files_only, as for `dkic.hub.download`.

        Raises:
            TypeError: there is no such argument.
            DkicError: as `dkic.load`.
        """
        hub.check_arguments("from_pretrained", hub.download, download)
        name = pretrained_model_name_or_path
        return load(hub.download(str(name), **download) if hub.is_repository(name) else name, device)

    def push_to_hub(self, repo_id: str, *, config: None = None, model_card_kwargs: None = None, **upload: Any) -> str:
        """Uploads the weights files to a repository "owner/name"; returns the commit's address.

        Args:
            config, model_card_kwargs: must be None, as for `save_pretrained`.
            upload: commit_message, private, token, branch, create_pr, allow_patterns, ignore_patterns and delete_patterns, as for
                `dkic.hub.push`.

        Raises:
            TypeError: there is no such argument.
            ValueError: config or model_card_kwargs is given.
            DkicError: huggingface_hub is not installed, or the repository can't be written.
        """
        hub.check_arguments("push_to_hub", hub.push, upload, config=config, model_card_kwargs=model_card_kwargs)
        return hub.push(self._weights.values(), repo_id, **upload)

    def model_hash(self, quality: int) -> bytes:
        """The hash that identifies the weights of one of `qualities` in .dkic files."""
        return self.weights_of(quality).hash

    def _within(self, image: ImageData, target_bpp: float, tile: int | None) -> bytes:
        """The largest file within a target."""
        points = self.points.all()
        pixels = image.width * image.height
        files: dict[int, bytes] = {}  # by point

        latents: dict[bytes, tuple[Tensor, Tensor | None]] = {}  # of the last network; all its operating points share it

        def latent(weights: Weights) -> tuple[Tensor, Tensor | None]:
            if weights.hash not in latents:
                latents.clear()
                latents[weights.hash] = _analyzed(image, weights, tile)
            return latents[weights.hash]

        def within(point: int) -> bool:
            weights = self.weights_of(points[point].quality)
            files[point] = _packed(image, weights, latent(weights), points[point])
            return len(files[point]) * 8 / pixels <= target_bpp

        point = last_within(len(points), within)
        if point < 0:  # for a small or unusual image a higher quality may take fewer bits
            coarse = set(self.points.measured_first())  # not all 100 of a variable-rate model, which would take minutes
            point = next(filter(within, (i for i in reversed(range(len(points))) if points[i] in coarse and i not in files)), -1)
        if point < 0:
            least = min(map(len, files.values())) * 8 / pixels
            reached = f"the least possible for this image is {least:.6g}"
            if image.icc:
                size = icc_section_bytes(image.icc)
                reached += f", {size * 8 / pixels:.6g} of it for an ICC profile of {size:,} bytes; {_DROP_PROFILE}"
            raise DkicError(f"target_bpp: no operating point is within {target_bpp:g} bits per pixel; {reached}")
        return files[point]

    def _verified(self, data: bytes, verify: bool) -> bytes:
        if verify:
            file = unpack(data)
            try:
                decode_latent(file, self._weights_of_file(file))
            except FormatError as error:
                report = "report this, with the output of `dkic doctor`"
                raise DkicError(
                    f"verification failed: the decoded latents differ from the encoded ones ({error}); {report}"
                ) from None
        return data

    def _weights_of_file(self, file: DkicFile) -> Weights:
        model_hash = file.header.model_hash
        if model_hash not in self._decoding:
            weights = load_weights(find_by_hash(model_hash, tuple(self._decoding)))
            if self.device.type == "cuda":
                _move(weights, self.device)
            self._decoding.setdefault(model_hash, weights)  # another thread may have loaded it meanwhile
        return self._decoding[model_hash]

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
        self, data: bytes | DkicFile, output: Literal["image_data"], *, salvage: bool = ..., tile: int | None = ...
    ) -> ImageData: ...
    def decompress(
        self,
        data: bytes | DkicFile,
        output: Literal["pil", "numpy", "torch", "image_data"] = "pil",
        *,
        salvage: bool = False,
        tile: int | None = None,
    ) -> Image.Image | np.ndarray | Tensor | ImageData:
        """Decodes the contents of a .dkic file of this model or of a shipped one, which is loaded when first needed.

        Args:
            data: the result of `compress`, or of `dkic.coding.container.unpack` for it.
            output: "pil": PIL image, RGB or L, with its ICC profile in `info`; "numpy": uint8 `[H, W, 3]`; "torch": uint8
                `[3, H, W]`; "image_data": `dkic.coding.image_data.ImageData`, for writing.
            salvage: also decode a file that is damaged after its image section, with a warning for each lost part.
            tile: as in `compress`; independent of the encoder's.

        Raises:
            FormatError: data is damaged, or was encoded with other arithmetic. DkicError: it needs a model that is neither this
                one nor shipped.
        """
        if output not in ("pil", "numpy", "torch", "image_data"):
            raise DkicError(f"output: must be pil, numpy, torch or image_data, not {output}")
        _check_tile(tile)
        file = data if isinstance(data, DkicFile) else unpack(data, salvage=salvage)
        if file is not data:
            for lost in file.lost:
                warnings.warn(lost, stacklevel=2)
        pixels = _decoded_pixels(file, self._weights_of_file(file), tile)
        if output == "numpy":
            return pixels
        if output == "torch":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        icc, notes = fitting_profile(file.icc, file.header.grayscale) if file.icc else (None, [])
        image = ImageData(pixels, file.header.grayscale, icc, tuple(notes))
        if output == "image_data":
            return image
        for note in notes:
            warnings.warn(f"the file: {note}", stacklevel=2)
        return to_pil(image)


def load(model: str | Path = DEFAULT_MODEL, device: str | torch.device = "cpu") -> Codec:
    """Loads a codec.

    Args:
        model: name of a shipped model ("small"), a weights file, a folder with one file for each quality, or a repository
            of the Hugging Face Hub ("owner/name", extra `[hub]`); see `dkic.hub.find_weights`.
        device: where the networks compute, "cpu" or "cuda". Files are device-independent.

    Raises:
        DkicError: no such model, a damaged weights file, or an unusable device; the message says what would be right.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise DkicError(f"device: {device!r} does not exist; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise DkicError(f"device: {device} is not supported; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DkicError(f"device: PyTorch finds no GPU for {device}; use cpu, or run `dkic doctor`")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DkicError(f"device: PyTorch finds no {device}; use cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if reason := backends.load_cpu() or backends.op_unavailable_reason("ldcn", device):
        raise DkicError(reason)
    weights = [load_weights(path) for path in hub.find_weights(model)]
    if device.type == "cuda":
        for one in weights:
            _move(one, device)
    return Codec(weights)


def _move(weights: Weights, device: torch.device) -> None:
    if weights.arithmetic != Arithmetic.EXACT:
        raise DkicError(f"{weights.path}: weights of arithmetic {weights.arithmetic} are reproducible only on CPUs; use cpu")
    weights.model.to(device)


def _operating_points(weights: list[Weights], qualities: list[int]) -> OperatingPoints:
    if not any(one.model.variable_rate for one in weights):
        return SeparateNetworks(qualities)
    if len(weights) > 1:
        others = ", ".join(str(one.path) for one in weights)
        raise DkicError(f"model: a variable-rate model is one weights file, not several ({others}); give the path of one of them")
    return VariableRate(qualities)


def stored_profile(image: ImageData, icc: Literal["keep", "drop"]) -> bytes | None:
    """The profile that is stored in the file of an image; icc: as in `Codec.compress`."""
    if icc == "drop" or not image.icc or is_srgb(image.icc, image.grayscale):
        return None
    return image.icc


def _name_of(image: object) -> str:
    return str(image) if isinstance(image, str | Path) else "the image"


def _analyzed(image: ImageData, weights: Weights, tile: int | None) -> tuple[Tensor, Tensor | None]:
    pixels = image.pixels
    if not pixels.flags.writeable or min(pixels.strides) < 0:  # torch warns of the former and refuses the latter
        pixels = pixels.copy()
    return analyze(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0), weights, tile)


def _packed(image: ImageData, weights: Weights, latent: tuple[Tensor, Tensor | None], point: OperatingPoint) -> bytes:
    """The file of an image, from its latent."""
    arithmetic = int(weights.arithmetic)
    header = Header(image.width, image.height, weights.hash, point.quality, arithmetic, image.grayscale, point.qstep)
    return pack(DkicFile(header, encode_latent(*latent, weights, *point), image.icc))


@torch.inference_mode()
def _decoded_pixels(file: DkicFile, weights: Weights, tile: int | None) -> np.ndarray:
    """uint8 `[H, W, 3]`; three equal channels if the file is grayscale."""
    y_hat = decode_latent(file, weights).float()
    header = file.header
    quality = weights.quality_at(header.quality, header.qstep)
    image = synthesize(y_hat, header.height, header.width, weights, tile, quality)
    pixels = image[0].permute(1, 2, 0).contiguous().numpy()
    return np.repeat(pixels[:, :, 1:2], 3, axis=2) if file.header.grayscale else pixels


def _check_rate(quality: object, target_bpp: object) -> None:
    if quality is not None and (isinstance(quality, bool) or not isinstance(quality, Real) or not float(quality).is_integer()):
        raise DkicError(f"quality: must be an integer, and is {quality!r}; convert it")
    if target_bpp is None:
        return
    if isinstance(target_bpp, bool) or not isinstance(target_bpp, Real) or not float(target_bpp) > 0:  # written so that NaN fails
        raise DkicError(f"target_bpp: must be a positive number of bits per pixel, and is {target_bpp!r}; choose another")


def _check_tile(tile: int | None) -> None:
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, Integral) or tile < 0 or tile % SIZE_MULTIPLE):
        raise DkicError(f"tile: must be a multiple of {SIZE_MULTIPLE}, or 0 for no tiles, not {tile}")
