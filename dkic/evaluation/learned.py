"""Our models, and the paper's learned peer: Cheng2020 (Cheng et al. 2020) from CompressAI's zoo."""

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
from dkic.errors import DkicError
from dkic.evaluation.codecs import Unavailable
from dkic.output_file import reason


class Dkic:
    """An `ImageCodec`: a model of ours at its quality levels, each at some qsteps of quantization.

    A quality is 10 times the model's, less the qstep: 28, 29, 30 and 31 are quality 3 from coarse to fine. Of a variable-rate
    model it is the model's own.
    """

    suffix = ".dkic"
    # Further ones gain little: `dkic compress`, which takes them too, has LPIPS of 0.1308 for 0.1313 at 0.15 bits per pixel.
    QSTEPS = (2, 1, 0, -1)

    def __init__(self, model: str) -> None:
        self._codec = load(model)
        self.name = f"dkic:{model}"
        if self._codec.variable_rate:
            self._settings = {point.quality: tuple(point) for point in self._codec.chosen_among}
            self.about = f"dkic: model {model}"
        else:
            self._settings = {level * 10 - qstep: (level, qstep) for level in self._codec.qualities for qstep in self.QSTEPS}
            levels, qsteps = (", ".join(map(str, numbers)) for numbers in (self._codec.qualities, self.QSTEPS))
            self.about = f"dkic: model {model}, levels {levels} at qsteps {qsteps} (quality: 10 * level - qstep)"
        self.qualities = tuple(self._settings)

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        level, qstep = self._settings[quality]
        return self._codec.compress(pixels, level, qstep=qstep)

    def decode(self, data: bytes) -> np.ndarray:
        return self._codec.decompress(data, "numpy")


class Cheng2020:
    """An `ImageCodec`: CompressAI's cheng2020-anchor or -attn, trained for MSE.

    A file is height, width, quality and the length of z's string, 16 bytes, then z's and y's strings.

    Args:
        weights: CompressAI's files, named as there (cheng2020-anchor-3-e49be189.pth.tar); those of other networks are
            passed over. Without any for this one the zoo's are downloaded.
    """

    suffix = ".cheng2020"

    def __init__(self, name: str, weights: Sequence[Path] = ()) -> None:
        try:
            from compressai.zoo.image import cfgs, model_architectures, model_urls
            from compressai.zoo.pretrained import load_pretrained
        except ImportError:
            raise Unavailable("needs CompressAI: pip install compressai") from None
        self.name = name
        self._new, self._renamed = model_architectures[name].from_state_dict, load_pretrained
        self._files: dict[int, Path] = {}
        for path in weights:
            network, quality = _what_is(path)
            if network == name and self._files.setdefault(quality, path) != path:
                raise DkicError(f"--weights: {path} and {self._files[quality]} are both {name}'s quality {quality}")
        self._urls = model_urls[name]["mse"]
        self.qualities = tuple(sorted(self._files or cfgs[name]))
        self.about = f"{name}: CompressAI, {'given weights' if self._files else 'MSE weights of its zoo'}, 16 bytes of header"
        self._model = lru_cache(maxsize=None)(self._load)
        self._model(self.qualities[0])  # so that what can't be had is known at once

    def _load(self, quality: int) -> Any:
        path = self._files.get(quality)
        try:
            if path is None:
                state = torch.hub.load_state_dict_from_url(self._urls[quality], progress=False, map_location="cpu")
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises half a dozen types for a damaged file
            if path is not None:
                raise DkicError(f"{path}: no weights that can be read ({reason(error)})") from None
            raise Unavailable(f"its weights can't be downloaded ({reason(error)}); give their files with --weights") from None
        try:
            model = self._new(self._renamed(state)).eval()
        except (KeyError, RuntimeError, AttributeError) as error:
            raise DkicError(f"{path or self._urls[quality]}: no weights of {self.name} ({reason(error)})") from None
        model.update()
        return model

    @torch.inference_mode()
    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        height, width = pixels.shape[:2]
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        coded = self._model(quality).compress(F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate"))
        (y,), (z,) = coded["strings"]
        return struct.pack("<4I", height, width, quality, len(z)) + z + y

    @torch.inference_mode()
    def decode(self, data: bytes) -> np.ndarray:
        height, width, quality, length = struct.unpack("<4I", data[:16])
        z, y = data[16 : 16 + length], data[16 + length :]
        shape = (-(-height // 64), -(-width // 64))
        x_hat = self._model(quality).decompress([[y], [z]], shape)["x_hat"][0, :, :height, :width]
        return x_hat.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _what_is(path: Path) -> tuple[str, int]:
    """Network and quality, from the name of a weights file."""
    named = re.match(r"cheng2020[-_](anchor|attn)(?:-mse|-ms-ssim)?-(\d+)\b", path.name)
    if named is None:
        raise DkicError(f"{path}: must be named as CompressAI names it, cheng2020-anchor-3-e49be189.pth.tar for one")
    return f"cheng2020-{named[1]}", int(named[2])
