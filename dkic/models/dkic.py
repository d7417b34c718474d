"""The DKIC codec's network: transforms with dynamic kernels, hyper-prior, asymmetric space-channel context."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dkic.entropy.quantization import SCALE_INDEX_MAX, coded_mean, nearest_index, scale_of_index
from dkic.models.analysis import Analysis
from dkic.models.config import ModelConfig
from dkic.models.hyperprior import FactorizedPrior, HyperAnalysis, HyperSynthesis
from dkic.models.slice_context import Cells, SliceContext, take_cells
from dkic.models.synthesis import Synthesis
from dkic.ops import gaussian_likelihood
from dkic.ops.requantize import round_ste

# The picture is padded to a multiple of this: the latent is at 1/16, and z at a quarter of that.
SIZE_MULTIPLE = 64


class TrainingOutput(NamedTuple):
    """What a step of training needs.

    x_hat: `[N, 3, H, W]`, in [0, 1] once clamped.
    bits: of every picture `[N]`, y's and z's together, with noise in place of rounding; differentiable.
    quantized_bits: the same of what a file would hold, without gradient.
    y_hat: `[N, M, H/16, W/16]`, what x_hat was made from.
    """

    x_hat: Tensor
    bits: Tensor
    quantized_bits: Tensor
    y_hat: Tensor


class LatentBits(NamedTuple):
    """y_hat `[N, M, h, w]`; bits of y alone, of every picture `[N]`, with noise and rounded, as in TrainingOutput."""

    y_hat: Tensor
    bits: Tensor
    quantized_bits: Tensor


class DKIC(nn.Module):
    """Codec network.

        x -> g_a -> y -> h_a -> z -> round -> z_hat -> h_s -> context -> mean, scale of y, slice after slice
                    y -> round(y - mean) + mean -> y_hat -> g_s -> x_hat
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.context = SliceContext(config, self.h_s.grids["features"])
        self.prior = FactorizedPrior(config.hyper_channels)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> TrainingOutput:
        """Training: x `[N, 3, H, W]` in [0, 1], H and W multiples of 64.

        Bits are those of y and z with uniform noise in place of rounding (drawn from `generator`); what the decoder sees
        is rounded, with the gradient passed straight through.
        """
        y = self.g_a(x)
        z = self.h_a(y)
        with torch.no_grad():
            quantized_bits = self.prior.bits(z.round()).sum((1, 2, 3))
        bits = self.prior.bits(_noisy(z, generator)).sum((1, 2, 3))
        latent = self.latent_bits(y, round_ste(z), generator)
        return TrainingOutput(
            self.g_s(latent.y_hat), bits + latent.bits, quantized_bits + latent.quantized_bits, latent.y_hat
        )

    def latent_bits(self, y: Tensor, z_hat: Tensor, generator: torch.Generator | None = None) -> LatentBits:
        """What y `[N, M, h, w]` costs once z_hat is known: all that h_s and the context are for; differentiable."""
        bits, quantized_bits = y.new_zeros(len(y)), y.new_zeros(len(y))

        def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
            nonlocal bits, quantized_bits
            part = take_cells(y[:, channels], cells)
            residual, scale = part - mean, scale_of_index(scale_index.clamp(0, SCALE_INDEX_MAX))
            noisy = gaussian_likelihood(residual, scale, quantize="noise", generator=generator, reduction="sum")[1]
            bits = bits + noisy
            with torch.no_grad():
                coded_residual, coded_scale = part - coded_mean(mean), scale_of_index(nearest_index(scale_index).float())
                rounded = gaussian_likelihood(coded_residual, coded_scale, quantize="round", reduction="sum")[1]
                quantized_bits = quantized_bits + rounded
            return round_ste(residual) + mean

        y_hat = self.context(self.h_s(z_hat), visit)
        return LatentBits(y_hat, bits, quantized_bits)


def _noisy(t: Tensor, generator: torch.Generator | None) -> Tensor:
    return t + (torch.rand(t.shape, generator=generator, device=t.device, dtype=t.dtype) - 0.5)
