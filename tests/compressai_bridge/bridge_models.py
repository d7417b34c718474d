"""Untrained CompressAI models whose symbols are not all zero, and images for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.latent_codecs import HyperLatentCodec, HyperpriorLatentCodec, RasterScanLatentCodec
from compressai.layers import MaskedConv2d
from compressai.models import (
    Cheng2020Anchor,
    Cheng2020AnchorCheckerboard,
    Cheng2020Attention,
    Elic2022Chandelier,
    Elic2022Official,
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
    SimpleVAECompressionModel,
)
from PIL import Image
from torch import Tensor, nn

PHOTO = Path(__file__).resolve().parents[2] / "dkic" / "demo" / "photo.png"
GROUPS = [8, 8, 16, 16]


class RasterScanModel(SimpleVAECompressionModel):
    """A latent-codec model with a raster-scan context, as in CompressAI's documentation of RasterScanLatentCodec."""

    def __init__(self, n: int = 16, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.g_a = nn.Conv2d(3, n, 16, 16)
        self.g_s = nn.ConvTranspose2d(n, 3, 16, 16)
        self.latent_codec = HyperpriorLatentCodec(
            latent_codec={
                "y": RasterScanLatentCodec(
                    gaussian_conditional=GaussianConditional(None),
                    entropy_parameters=nn.Sequential(nn.Conv2d(4 * n, 40, 1), activation(), nn.Conv2d(40, 2 * n, 1)),
                    context_prediction=MaskedConv2d(n, 2 * n, kernel_size=5, padding=2),
                ),
                "hyper": HyperLatentCodec(
                    entropy_bottleneck=EntropyBottleneck(n),
                    h_a=nn.Conv2d(n, n, 4, 4),
                    h_s=nn.ConvTranspose2d(n, 2 * n, 4, 4),
                    quantizer="ste",
                ),
            }
        )


MODELS = {
    "factorized": lambda: FactorizedPrior(16, 24),
    "scale": lambda: ScaleHyperprior(16, 24),
    "mean scale": lambda: MeanScaleHyperprior(16, 24),
    "joint autoregressive": lambda: JointAutoregressiveHierarchicalPriors(16, 24),
    "cheng2020 anchor": lambda: Cheng2020Anchor(16),
    "cheng2020 attention": lambda: Cheng2020Attention(16),
    "cheng2020 checkerboard": lambda: Cheng2020AnchorCheckerboard(16),
    "elic official": lambda: Elic2022Official(16, 48, groups=GROUPS),
    "elic chandelier": lambda: Elic2022Chandelier(16, 48, groups=GROUPS),
    "raster scan": RasterScanModel,
}
AUTOREGRESSIVE = ("joint autoregressive", "cheng2020 anchor", "cheng2020 attention", "raster scan")


def images(batch: int, size: int = 128) -> Tensor:
    """Crops of a photograph, `[batch, 3, size, size]`, 0 to 1."""
    photo = torch.from_numpy(np.array(Image.open(PHOTO).convert("RGB"))).permute(2, 0, 1).float() / 255
    return torch.stack([photo[:, 40 * i : 40 * i + size, 60 * i : 60 * i + size] for i in range(batch)])


def model_of(name: str, seed: int = 0) -> nn.Module:
    """A model in eval mode, updated, whose latents, scales and means vary."""
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():
        # The images' latents get a standard deviation of 6.
        x = images(1)
        last = [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)][-1]
        for _ in range(3):
            factor = 6 / model.g_a(x).std()
            last.weight.mul_(factor)
            last.bias.mul_(factor)
        # Scales and means vary; the weights stay as they are, since larger ones would make a context model's errors grow.
        for module in model.modules():
            if isinstance(module, EntropyBottleneck):
                module.quantiles[:, 0, 1].uniform_(-0.4, 0.4)
                module.quantiles[:, 0, 0] = module.quantiles[:, 0, 1] - torch.randint(3, 9, (len(module.quantiles),))
                module.quantiles[:, 0, 2] = module.quantiles[:, 0, 1] + torch.randint(3, 9, (len(module.quantiles),))
            networks = [getattr(module, name, None) for name in ("h_s", "entropy_parameters")]
            for network in networks:
                convolutions = [] if network is None else [m for m in network.modules() if isinstance(m, nn.Conv2d)]
                for convolution in convolutions:
                    convolution.bias.normal_(0.5, 1)
    model.update(force=True)
    return model
