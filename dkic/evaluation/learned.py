"""Learned codecs: dkic models, and Cheng2020 (Cheng et al. 2020) from CompressAI's zoo."""

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dkic.coding.codec import load
from dkic.coding.operating_points import named
from dkic.errors import DkicError
from dkic.evaluation.codecs import Unavailable
from dkic.output_file import reason


class Dkic:
    """An `ImageCodec`: a dkic model at the operating points of `OperatingPoints.by_setting`."""

    suffix = ".dkic"

    def __init__(self, model: str) -> None:
        self._codec = load(model)
        self.name = f"dkic:{model}"
        self._points = self._codec.points.by_setting()
        self.qualities = tuple(self._points)
        self.about = f"dkic: model {model}, {len(self.qualities)} operating points of quality {named(self._codec.qualities)}"

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        point = self._points[quality]
        return self._codec.compress(pixels, point.quality, qstep=point.qstep)

    def decode(self, data: bytes) -> np.ndarray:
        return self._codec.decompress(data, "numpy")


class Cheng2020:
    """An `ImageCodec`: CompressAI's cheng2020-anchor or -attn, trained for MSE.

    A file contains height, width, quality and the length of z's string, 16 bytes, then the strings of z and y.

    Args:
        weights: CompressAI's files, with their original names (cheng2020-anchor-3-e49be189.pth.tar); those of other networks are
            ignored. Without files for this network the zoo's are downloaded.

    Raises:
        Unavailable: CompressAI is not installed, or its weights can't be downloaded. DkicError: a weights file can't be used.
    """

    suffix = ".cheng2020"

    def __init__(self, name: str, weights: Sequence[Path] = ()) -> None:
        try:
            from compressai.zoo.image import cfgs, model_architectures, model_urls
            from compressai.zoo.pretrained import load_pretrained
        except ImportError:
            raise Unavailable("needs CompressAI; pip install compressai") from None
        self.name = name
        self._new, self._renamed = model_architectures[name].from_state_dict, load_pretrained
        self._files: dict[int, Path] = {}
        for path in weights:
            network, quality = _what_is(path)
            if network == name and self._files.setdefault(quality, path) != path:
                raise DkicError(
                    f"--weights: {path} and {self._files[quality]} are both quality {quality} of {name}; give one of them"
                )
        self._urls = model_urls[name]["mse"]
        self.qualities = tuple(sorted(self._files or cfgs[name]))
        self.about = f"{name}: CompressAI, {'given weights' if self._files else 'MSE weights of its zoo'}, 16 bytes of header"
        self.network = lru_cache(maxsize=None)(self._load)
        self.network(self.qualities[0])  # fails now if weights are missing

    def _load(self, quality: int) -> Any:
        path = self._files.get(quality)
        try:
            if path is None:
                state = torch.hub.load_state_dict_from_url(self._urls[quality], progress=False, map_location="cpu")
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises half a dozen types for a damaged file
            if path is not None:
                raise DkicError(f"{path}: not a readable weights file ({reason(error)})") from None
            raise Unavailable(f"its weights can't be downloaded ({reason(error)}); give their files with --weights") from None
        try:
            model = self._new(self._renamed(state)).eval()
        except (KeyError, RuntimeError, AttributeError) as error:
            raise DkicError(f"{path or self._urls[quality]}: not weights of {self.name} ({reason(error)})") from None
        model.update()
        return model

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        height, width = pixels.shape[:2]
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        coded = self.network(quality).compress(F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate"))
        (y,), (z,) = coded["strings"]
        return struct.pack("<4I", height, width, quality, len(z)) + z + y

    @torch.inference_mode()
    def decode(self, data: bytes) -> np.ndarray:
        height, width, quality, length = struct.unpack("<4I", data[:16])
        z, y = data[16 : 16 + length], data[16 + length :]
        shape = (-(-height // 64), -(-width // 64))
        x_hat = self.network(quality).decompress([[y], [z]], shape)["x_hat"][0, :, :height, :width]
        return x_hat.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _what_is(path: Path) -> tuple[str, int]:
    """Network and quality, from the name of a weights file."""
    named = re.match(r"cheng2020[-_](anchor|attn)(?:-mse|-ms-ssim)?-(\d+)\b", path.name)
    if named is None:
        raise DkicError(f"{path}: must have CompressAI's name, for example cheng2020-anchor-3-e49be189.pth.tar")
    return f"cheng2020-{named[1]}", int(named[2])
