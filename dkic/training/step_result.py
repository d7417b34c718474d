"""Results of an optimizer step."""

import math
from dataclasses import asdict, dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """Results of an optimizer step: means over its batch, NaN for terms that the loss does not contain.

    Attributes:
        step: number of completed steps, this one included.
        loss: loss of the codec.
        bpp: rate of the latent with additive noise, in bits per pixel.
        quantized_bpp: rate of the rounded latent, as in files, in bits per pixel.
        psnr: PSNR in dB.
        rate_weight: weight of the rate in the loss.
        lpips, dists, lpips_vgg, color, ms_ssim, gan: unweighted terms of the loss.
        discriminator: loss of the discriminator.
        discriminator_accuracy: fraction of patches that the discriminator classifies correctly.
    """

    step: int
    loss: float
    bpp: float
    quantized_bpp: float
    psnr: float = math.nan
    rate_weight: float = math.nan
    lpips: float = math.nan
    dists: float = math.nan
    lpips_vgg: float = math.nan
    color: float = math.nan
    ms_ssim: float = math.nan
    gan: float = math.nan
    discriminator: float = math.nan
    discriminator_accuracy: float = math.nan

    def __str__(self) -> str:
        measured = [
            (self.quantized_bpp, f"bpp {self.quantized_bpp:.3f}"),
            (self.psnr, f"PSNR {self.psnr:.2f} dB"),
            (self.lpips, f"LPIPS {self.lpips:.3f}"),
            (self.discriminator_accuracy, f"D right in {self.discriminator_accuracy:.0%}"),
        ]
        return ", ".join(text for value, text in measured if not math.isnan(value))


def running_mean(mean: StepResult, new: StepResult, keep: float = 0.98) -> StepResult:
    """Exponential moving average of all fields but `step`, with decay `keep`; a field that was NaN restarts at its new value."""
    values = asdict(new)
    for name, before in asdict(mean).items():
        if name != "step" and not math.isnan(before):
            values[name] = keep * before + (1 - keep) * values[name]
    return replace(new, **values)


def psnr_of(mse: Tensor) -> Tensor:
    """PSNR in dB of values in [0, 1]; at most 100."""
    return -10 * mse.clamp(min=1e-10).log10()
