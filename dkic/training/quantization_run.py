"""Quantization-aware training of a model's entropy networks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from dkic.errors import DkicError
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import SIZE_MULTIPLE
from dkic.training.photos import PhotoFolder
from dkic.training.run import Run
from dkic.training.schedule import CosineSchedule


@dataclass(frozen=True)
class QuantizeSettings:
    """Settings of quantization (`dkic quantize`) and of quantization-aware training of h_s and the context network.

    Attributes:
        steps: optimizer steps (Adam) for the bits of y; 0: calibration only.
        batch: crops per step.
        crop: side of the crops in pixels, a multiple of 64.
        learning_rate: peak learning rate; see `CosineSchedule`.
        clip_norm: maximum gradient norm.
        seed: seed of crops and noise.

    Raises:
        DkicError: a value is out of range.
    """

    # Without training, the bits of y increase by 0.1 to 0.9 % for well trained weights, and training did not reduce that.
    steps: int = 0
    batch: int = 8
    crop: int = 256
    learning_rate: float = 2e-4
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crop < SIZE_MULTIPLE or self.crop % SIZE_MULTIPLE:
            raise DkicError(f"--crop: must be a multiple of {SIZE_MULTIPLE}, not {self.crop}")
        if self.steps < 0 or self.batch < 1:
            raise DkicError(f"--steps, --batch: must be at least 0 and 1, not {self.steps} and {self.batch}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise DkicError(f"--lr: must be above 0, not {self.learning_rate}")


class QuantizationRun(Run):
    """Quantization-aware training of a model's entropy networks for the bits of y; the transforms are frozen.

    Args:
        model: prepared network (`dkic.quantized.prepare`), on `device`.
        settings: see `QuantizeSettings`.
        photos, device, workers, warn: see `Run`.
    """

    def __init__(
        self,
        model: CodecNetwork,
        settings: QuantizeSettings,
        photos: PhotoFolder,
        device: torch.device,
        *,
        workers: int = 0,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        schedule = CosineSchedule(settings.learning_rate, settings.steps)
        super().__init__(model, settings, photos, schedule, settings.steps, device=device, workers=workers, warn=warn)
        parameters = [p for part in model.entropy_networks().values() for p in part.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.Adam(parameters, fused=True)

    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer]

    def accumulate(self, crops: Sequence[Tensor]) -> dict[str, Tensor]:
        (x,) = crops
        out = self.model.latent_bits(*latents_of(self.model, x), self.qualities(0, len(x)), self.noise(0))
        pixels = x[:, 0].numel()
        loss = out.bits.sum() / pixels
        loss.backward()
        return {"loss": loss.detach(), "bpp": loss.detach(), "quantized_bpp": out.quantized_bits.sum() / pixels}


def latents_of(model: CodecNetwork, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Latents y and z_hat (None without a hyper-prior) of images `[N, 3, H, W]` in [0, 1], computed without gradients."""
    with torch.no_grad():
        y = model.analyze(x.contiguous(memory_format=torch.channels_last))
        z = model.hyper_latent(y)
        return y, None if z is None else z.round()
