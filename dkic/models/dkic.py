"""The codec network of one quality: transforms with dynamic kernels, hyper-prior, asymmetric space-channel context."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from dkic.entropy.quantization import Quantizer
from dkic.models.analysis import Analysis
from dkic.models.codec_network import CodecNetwork, TrainingOutput
from dkic.models.config import ModelConfig
from dkic.models.hyperprior import FactorizedPrior, HyperAnalysis, HyperSynthesis
from dkic.models.slice_context import SliceContext
from dkic.models.synthesis import Synthesis
from dkic.ops.requantize import round_ste
from dkic.quantized import ActivationScale

# Images are padded to a multiple of this: the latent is at 1/16 of their size, and z at 1/4 of the latent's.
SIZE_MULTIPLE = 64


class DKIC(CodecNetwork):
    """Codec network of the paper, for one quality.

    ```
    x -> g_a -> y -> h_a -> z -> round -> z_hat -> h_s -> context -> mean, scale of y, slice after slice
                y -> round(y - mean) + mean -> y_hat -> g_s -> x_hat
    ```
    """

    variable_rate = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = HyperAnalysis(config)
        self.h_s = HyperSynthesis(config)
        self.context = SliceContext(config, cast(ActivationScale, self.h_s.scales["features"]))
        self.prior = FactorizedPrior(config.hyper_channels)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> TrainingOutput:
        """Training: x `[N, 3, H, W]` in [0, 1], H and W multiples of 64.

        Bits of y and z are computed with uniform noise instead of rounding (drawn from `generator`). The decoder's input is
        rounded; the gradient passes straight through.
        """
        y = self.g_a(x)
        z = self.h_a(y)
        with torch.no_grad():
            quantized_bits = self.prior.bits(z.round()).sum((1, 2, 3))
        bits = self.prior.bits(_noisy(z, generator)).sum((1, 2, 3))
        latent = self.latent_bits(y, round_ste(z), generator=generator)
        return TrainingOutput(self.g_s(latent.y_hat), bits + latent.bits, quantized_bits + latent.quantized_bits, latent.y_hat)

    def analyze(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def hyper_latent(self, y: Tensor) -> Tensor:
        return self.h_a(y)

    def features(self, z_hat: Tensor | None, quality: Tensor | None, size: tuple[int, int]) -> Tensor:
        return self.h_s(z_hat)

    def quantizer(self, quality: Tensor | None) -> Quantizer:
        return Quantizer()

    def synthesize(self, y_hat: Tensor, quality: Tensor | None) -> Tensor:
        return self.g_s(y_hat)

    def transforms(self) -> Iterator[nn.Module]:
        yield from (self.g_a, self.g_s, self.h_a)

    def entropy_networks(self) -> dict[str, nn.Module]:
        return {"h_s": self.h_s, "context": self.context}


def _noisy(t: Tensor, generator: torch.Generator | None) -> Tensor:
    return t + (torch.rand(t.shape, generator=generator, device=t.device, dtype=t.dtype) - 0.5)
