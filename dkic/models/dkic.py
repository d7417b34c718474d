"""The DKIC codec's network: transforms with dynamic kernels, hyper-prior, asymmetric space-channel context."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dkic.entropy.quantization import SCALE_INDEX_MAX, round_ste, scale_of_index
from dkic.models.analysis import Analysis
from dkic.models.config import ModelConfig
from dkic.models.hyperprior import FactorizedPrior, HyperAnalysis, HyperSynthesis
from dkic.models.slice_context import Cells, SliceContext, take_cells
from dkic.models.synthesis import Synthesis
from dkic.ops.reference import gaussian_bits

# The picture is padded to a multiple of this: the latent is at 1/16, and z at a quarter of that.
SIZE_MULTIPLE = 64


class TrainingOutput(NamedTuple):
    """x_hat `[N, 3, H, W]`; bits of every picture `[N]` (y and z together), differentiable."""

    x_hat: Tensor
    bits: Tensor


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
        self.context = SliceContext(config)
        self.prior = FactorizedPrior(config.hyper_channels)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> TrainingOutput:
        """Training: x `[N, 3, H, W]` in [0, 1], H and W multiples of 64.

        Bits are those of y and z with uniform noise in place of rounding (drawn from `generator`); what the decoder sees
        is rounded, with the gradient passed straight through.
        """
        y = self.g_a(x)
        z = self.h_a(y)
        bits = self.prior.bits(_noisy(z, generator)).sum((1, 2, 3))

        def visit(channels: slice, cells: Cells, mean: Tensor, scale_index: Tensor) -> Tensor:
            nonlocal bits
            residual = take_cells(y[:, channels], cells) - mean
            scale = scale_of_index(scale_index.clamp(0, SCALE_INDEX_MAX))
            bits = bits + gaussian_bits(_noisy(residual, generator), scale).sum((1, 2, 3))
            return round_ste(residual) + mean

        y_hat = self.context(self.h_s(round_ste(z)), visit)
        return TrainingOutput(self.g_s(y_hat), bits)


def _noisy(t: Tensor, generator: torch.Generator | None) -> Tensor:
    return t + (torch.rand(t.shape, generator=generator, device=t.device, dtype=t.dtype) - 0.5)
