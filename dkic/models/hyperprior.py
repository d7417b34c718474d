"""The hyper-prior: h_a, h_s and the factorized prior of z."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dkic.entropy.tables import FREQUENCY_SUM, Tables, tables_from_pmf
from dkic.models.config import ModelConfig
from dkic.quantized import ACTIVATION_MAX, ActivationScale, QuantizedConv2d, QuantizedLayer, QuantizedLDCNBlock


class HyperAnalysis(nn.Sequential):
    """y `[N, M, h, w]` -> z `[N, hyper_channels, h/4, w/4]`; h and w are multiples of 4."""

    def __init__(self, config: ModelConfig) -> None:
        c = config.hyper_channels
        super().__init__(
            nn.Conv2d(config.latent_channels, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, 2, 1),
        )


class HyperSynthesis(QuantizedLayer, nn.Sequential):
    """z_hat `[N, hyper_channels, h/4, w/4]` -> features `[N, hyper_features, h, w]`, an input of every slice's context.

    In a quantized network (see dkic.quantized), the features are activations with the scale `features`.
    """

    def __init__(self, config: ModelConfig) -> None:
        c = config.hyper_channels
        # The convolutions apply the ReLUs. The identities keep the layers' indexes, which weights files contain.
        symbols, coarse, fine = ActivationScale(c, 1.0), ActivationScale(c), ActivationScale(c)
        features = ActivationScale(config.hyper_features)
        nn.Sequential.__init__(
            self,
            _upsample(c, symbols, coarse),
            nn.Identity(),
            QuantizedLDCNBlock(c, config.hyper_groups, coarse),
            _upsample(c, coarse, fine),
            nn.Identity(),
            QuantizedConv2d(c, config.hyper_features, 1, inputs=[fine], outputs=features, relu=True),
        )
        # Registered here, so that all scales move to a device with this module.
        self.scales = nn.ModuleDict({"symbols": symbols, "coarse": coarse, "fine": fine, "features": features})

    def forward(self, z_hat: Tensor) -> Tensor:
        t = z_hat.clamp(-ACTIVATION_MAX, ACTIVATION_MAX) if not self.is_float else z_hat
        for layer in self.layers():
            t = layer(t)
        return t

    def layers(self) -> list[nn.Module]:
        """In order, without the scales."""
        return list(self)[:6]


def _upsample(channels: int, inputs: ActivationScale, outputs: ActivationScale) -> nn.Sequential:
    """dkic.models.synthesis.upsample with a ReLU, quantized."""
    convolution = QuantizedConv2d(channels, channels * 4, 3, 1, 1, inputs=[inputs], outputs=outputs, relu=True)
    return nn.Sequential(convolution, nn.PixelShuffle(2))


class FactorizedPrior(nn.Module):
    """Learned density of every channel of z: the monotone networks of Balle et al. 2018, appendix 6.1.

    z_hat is round(z). The location of the density is learned, so there is no median to subtract and no auxiliary loss.

    Args:
        channels: channels of z.
        init_scale: approximate width of the initial density.
    """

    WIDTHS = (1, 3, 3, 3, 1)

    def __init__(self, channels: int, init_scale: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        scale = init_scale ** (1 / (len(self.WIDTHS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for before, after in zip(self.WIDTHS, self.WIDTHS[1:], strict=False):
            start = torch.log(torch.expm1(torch.tensor(1 / scale / after)))
            self.matrices.append(nn.Parameter(start.expand(channels, after, before).clone()))
            self.biases.append(nn.Parameter(torch.rand(channels, after, 1) - 0.5))
        for width in self.WIDTHS[1:-1]:
            self.factors.append(nn.Parameter(torch.zeros(channels, width, 1)))

    def logits(self, z: Tensor) -> Tensor:
        """logit P(Z <= z) of z `[channels, 1, n]`, of the same shape."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            z = F.softplus(matrix) @ z + bias
            if i < len(self.factors):
                z = z + self.factors[i].tanh() * z.tanh()
        return z

    def probability(self, z: Tensor) -> Tensor:
        """P(z - 1/2 < Z <= z + 1/2) of z `[channels, 1, n]`, of the same shape; accurate on both tails."""
        lower, upper = self.logits(z - 0.5), self.logits(z + 0.5)
        sign = (lower + upper).detach()
        sign = torch.where(sign > 0, -torch.ones_like(sign), 1)  # on the upper tail, the difference of the complements
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()

    def bits(self, z: Tensor) -> Tensor:
        """Bits of every element of z `[N, channels, h, w]`, as `[N, channels, h, w]`."""
        n, c, h, w = z.shape
        p = self.probability(z.transpose(0, 1).reshape(c, 1, -1))
        return -torch.log2(p.clamp_min(1e-9)).reshape(c, n, h, w).transpose(0, 1)

    def learn(self, tables: Tables, steps: int = 200) -> None:
        """Fits the density to integer tables, one for each channel, of a model whose density was not saved."""
        like = self.biases[0]
        columns = torch.arange(tables.frequencies.shape[1], device=like.device)
        offset, length, frequencies = (
            torch.tensor(array, device=like.device) for array in (tables.offset, tables.length, tables.frequencies)
        )
        symbols = offset[:, None] + columns
        pmf = (frequencies * (columns < length[:, None] - 1)).to(like.dtype) / FREQUENCY_SUM  # without the escape symbol
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        for _ in range(steps):
            optimizer.zero_grad()
            bits = -torch.log2(self.probability(symbols[:, None].to(like.dtype)).squeeze(1).clamp_min(1e-9))
            (pmf * bits).sum().backward()
            optimizer.step()

    @torch.no_grad()
    def tables(self, reach: int = 1024) -> Tables:
        """The density as integer tables, one for each channel. Symbols beyond +-reach, or rarer than 2^-18, are escapes."""
        prior = copy.deepcopy(self).to("cpu", torch.float64)
        grid = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
        pmfs = prior.probability(grid.expand(self.channels, 1, -1)).squeeze(1).numpy()
        kept, offsets = [], []
        for pmf in pmfs:
            likely = (pmf > 2.0**-18).nonzero()[0]
            first, last = (likely[0], likely[-1]) if len(likely) else (reach, reach)
            inside = pmf[first : last + 1]
            kept.append(np.append(inside, max(1 - inside.sum(), 0.0)))
            offsets.append(int(grid[first]))
        return tables_from_pmf(kept, offsets)
