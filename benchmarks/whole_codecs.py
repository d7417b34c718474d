"""The codecs of the benchmarks: dkic's presets and CompressAI's ELIC, from an image in memory to bytes and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressai.models import Elic2022Official
from photographs import photograph

import dkic
from dkic.coding.codec import Codec
from dkic.models import DKIC, PRESETS, LDCNBlock
from dkic.models.weights_file import save_weights

SEED = 0


def image(height: int, width: int) -> np.ndarray:
    """uint8 `[height, width, 3]`: the shipped photograph, cropped, or extended by reflection."""
    pixels = photograph()
    beyond = ((0, max(0, height - pixels.shape[0])), (0, max(0, width - pixels.shape[1])), (0, 0))
    return np.pad(pixels, beyond, mode="symmetric")[:height, :width].copy()


@torch.no_grad()
def draw_offsets(model: DKIC) -> None:
    """Draws offsets and masks with a deviation of one pixel: initially they are zero, so every sample is a pixel, and
    sampling takes less time than after training."""
    for module in model.modules():
        if isinstance(module, LDCNBlock):
            module.offset_mask.reset_parameters()
            module.offset_mask.bias.normal_()


def save_untrained(preset: str, path: Path) -> None:
    """Weights of a preset without shipped weights: initialized from a seed, with `draw_offsets`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = DKIC(PRESETS[preset]).requires_grad_(False)
        draw_offsets(model)
    save_weights(path, model, 1, {})


class Ours:
    """A dkic codec. model, device: as for `dkic.load`."""

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self.codec: Codec = dkic.load(model, device=device)
        self.model: DKIC = self.codec.weights_of(self.codec.qualities[-1]).model

    def compress(self, pixels: np.ndarray) -> bytes:
        """The .dkic file's bytes for uint8 `[H, W, 3]`."""
        return self.codec.compress(pixels)

    def decompress(self, data: bytes) -> np.ndarray:
        """uint8 `[H, W, 3]`."""
        return self.codec.decompress(data, "numpy")

    def bytes_of(self, data: bytes) -> int:
        return len(data)


class Elic:
    """CompressAI's Elic2022Official, also untrained: seeded initial weights, tables computed once.

    channels_last, which is faster than its default layout; inference mode.
    """

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.model = Elic2022Official().eval().to(memory_format=torch.channels_last)
        self.model.update()

    @torch.inference_mode()
    def compress(self, pixels: np.ndarray) -> dict[str, Any]:
        """Its strings and shapes for uint8 `[H, W, 3]`, H and W multiples of 64."""
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        return self.model.compress(x)

    @torch.inference_mode()
    def decompress(self, coded: dict[str, Any]) -> np.ndarray:
        """uint8 `[H, W, 3]`."""
        x_hat = self.model.decompress(coded["strings"], coded["shape"])["x_hat"]
        return x_hat[0].mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def bytes_of(self, coded: dict[str, Any]) -> int:
        def total(strings: bytes | list) -> int:
            return len(strings) if isinstance(strings, bytes) else sum(map(total, strings))

        return total(coded["strings"])
