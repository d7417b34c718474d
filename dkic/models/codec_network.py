"""Base class of codec networks: the interface that coding and training use."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dkic.entropy.quantization import SCALE_INDEX_MAX, Quantizer, coded_mean, nearest_index, scale_of_index
from dkic.models.config import ModelConfig
from dkic.models.slice_context import SliceContext, take_cells
from dkic.models.variable_rate_config import VariableRateConfig
from dkic.ops import gaussian_likelihood
from dkic.ops.requantize import round_ste


class LatentBits(NamedTuple):
    """y_hat `[N, M, h, w]`; bits of y of every image `[N]`, with noise and rounded, as in `TrainingOutput` but without z."""

    y_hat: Tensor
    bits: Tensor
    quantized_bits: Tensor


class TrainingOutput(NamedTuple):
    """Result of a training step's forward pass.

    x_hat: `[N, 3, H, W]`, not clamped to [0, 1].
    bits: of y and z of every image `[N]`, with noise instead of rounding; differentiable.
    quantized_bits: of y and z of every image `[N]`, rounded as in a file; without gradient.
    y_hat: `[N, M, H/16, W/16]`, the latent that x_hat is computed from.
    """

    x_hat: Tensor
    bits: Tensor
    quantized_bits: Tensor
    y_hat: Tensor


class CodecNetwork(nn.Module, ABC):
    """Base class of codec networks: transforms and an entropy model whose context traverses the latent.

    A quality argument is a tensor `[N]`, or None if the network has one quality.
    """

    config: ModelConfig | VariableRateConfig
    g_a: nn.Module
    g_s: nn.Module
    context: SliceContext

    @property
    @abstractmethod
    def variable_rate(self) -> bool:
        """Whether one network covers the qualities 1 to 100."""

    @abstractmethod
    def analyze(self, x: Tensor) -> Tensor:
        """x `[N, 3, H, W]` in [0, 1], H and W multiples of 16 -> y `[N, M, H/16, W/16]`."""

    @abstractmethod
    def hyper_latent(self, y: Tensor) -> Tensor | None:
        """y `[N, M, h, w]` -> z, not rounded; None without a hyper-prior."""

    @abstractmethod
    def features(self, z_hat: Tensor | None, quality: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Input of the context before any of y is known: `[N, F, h, w]`; size: (h, w) of y."""

    @abstractmethod
    def quantizer(self, quality: Tensor | None) -> Quantizer:
        """The quantizer of y at a quality."""

    @abstractmethod
    def synthesize(self, y_hat: Tensor, quality: Tensor | None) -> Tensor:
        """y_hat `[N, M, h, w]` -> x_hat `[N, 3, 16h, 16w]`, not clamped to [0, 1]."""

    @abstractmethod
    def transforms(self) -> Iterator[nn.Module]:
        """The float networks; weights files store their large weights in 8 bits."""

    @abstractmethod
    def entropy_networks(self) -> dict[str, nn.Module]:
        """The networks that compute means and scales of y for the entropy coder, by name."""

    def latent_bits(
        self,
        y: Tensor,
        z_hat: Tensor | None,
        quality: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LatentBits:
        """y_hat, and the bits of y `[N, M, h, w]` given z_hat and the quality; differentiable.

        Noise is drawn from `generator`.
        """
        bits, quantized_bits = y.new_zeros(len(y)), y.new_zeros(len(y))
        quantizer = self.quantizer(quality)
        passes = self.context.coding_passes(self.features(z_hat, quality, (y.shape[-2], y.shape[-1])))
        for part in passes:
            size, offset = quantizer.of(part.channels)
            target = take_cells(y[:, part.channels], part.cells)
            residual = (target - part.mean) / size
            scale = scale_of_index((part.scale_index.clamp(0, SCALE_INDEX_MAX) - offset).clamp(0, SCALE_INDEX_MAX))
            noisy = gaussian_likelihood(residual, scale, quantize="noise", generator=generator, reduction="sum")[1]
            bits = bits + noisy
            with torch.no_grad():
                coded_residual = (target - coded_mean(part.mean)) / size
                coded_scale = scale_of_index(nearest_index(part.scale_index, offset).float())
                rounded = gaussian_likelihood(coded_residual, coded_scale, quantize="round", reduction="sum")[1]
                quantized_bits = quantized_bits + rounded
            part.y_hat = round_ste(residual) * size + part.mean
        return LatentBits(passes.y_hat, bits, quantized_bits)
