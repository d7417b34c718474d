"""DISTS (Ding et al. 2020, arXiv 2004.07728): similarity of structure and texture in VGG-16's features."""

from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkic.errors import DkicError, install
from dkic.losses.lpips_backbone import load_backbone

_WIDTHS = (3, 64, 128, 256, 512, 512)  # of the image and of the five feature maps
_STABILITY = 1e-6  # c1 and c2 of equations 5 and 6
_ROOT_STABILITY = 1e-12
_FLOAT32_CPU: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}  # independent of torch's defaults


class DISTS(nn.Module):
    """1 - weighted sum of the texture (means) and structure (covariances) similarity of two images' features.

    Values equal those of the DISTS-pytorch package at the images' own resolution, without resizing. Needs about 0.9 GB of memory
    per megapixel.

    Args:
        backbone: file of VGG-16's ImageNet weights; None: see `lpips_backbone.load_backbone`.

    Raises:
        DkicError: there are no weights, or the DISTS-pytorch package, which contains the weights of the similarities, is not
            installed.
    """

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str | Path | None = None) -> None:
        super().__init__()
        self.backbone = load_backbone("vgg", backbone)
        for i, layer in enumerate(self.backbone):
            if isinstance(layer, nn.MaxPool2d):
                self.backbone[i] = _L2Pool()
        alpha, beta = similarity_weights()
        self.register_buffer("alpha", alpha)
        self.register_buffer("beta", beta)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406], **_FLOAT32_CPU).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225], **_FLOAT32_CPU).reshape(3, 1, 1))

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances `[N]`, differentiable in both images.

        Args:
            x, x_hat: RGB `[N, 3, H, W]`, floating-point values in [0, 1].

        Raises:
            ValueError: the shapes are not `[N, 3, H, W]`, or differ.
            TypeError: the values are not floating-point.
        """
        if x.shape != x_hat.shape or x.ndim != 4 or x.shape[1] != 3:
            shapes = f"{list(x.shape)} and {list(x_hat.shape)}"
            raise ValueError(f"DISTS: x and x_hat have shapes {shapes}; give [N, 3, H, W] of one shape")
        for name, t in (("x", x), ("x_hat", x_hat)):
            if not t.is_floating_point():
                raise TypeError(f"DISTS/{name}: is {t.dtype}; give floating-point values in [0, 1]")
        dtype = next(self.backbone.parameters()).dtype  # may be a half type, for speed
        inputs = (((t - self.mean) / self.std).to(dtype, memory_format=torch.channels_last) for t in (x, x_hat))
        # Without gradients, only the maps of one layer are in memory.
        maps = self.backbone if torch.is_grad_enabled() else self.backbone.maps
        pairs = chain([(x, x_hat)], zip(*map(maps, inputs), strict=True))
        similarity = x.new_zeros(len(x))
        total = self.alpha.sum() + self.beta.sum()
        for (a, b), alpha, beta in zip(pairs, self.alpha.split(_WIDTHS), self.beta.split(_WIDTHS), strict=True):
            texture, structure = _similarities(a, b)
            similarity = similarity + (texture @ alpha + structure @ beta) / total
        return 1 - similarity


class _L2Pool(nn.Module):
    """Root of the mean square under a 3x3 Hanning window, every second pixel."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25], **_FLOAT32_CPU)
        self.register_buffer("window", torch.outer(row, row).reshape(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        mean = F.conv2d(x.square(), self.window.expand(channels, 1, 3, 3), stride=2, padding=1, groups=channels)
        return (mean + _ROOT_STABILITY).sqrt()


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Texture and structure, `[N, C]` each, of maps `[N, C, h, w]`; in float32 at least, also under autocast."""
    a, b = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (a, b))
    # [N, h * w, C]: gradients of the means then have the memory format of the features, channels last.
    a, b = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (a, b))
    mean_a, mean_b = a.mean(1), b.mean(1)
    texture = (2 * mean_a * mean_b + _STABILITY) / (mean_a.square() + mean_b.square() + _STABILITY)
    a, b = a - mean_a[:, None], b - mean_b[:, None]
    variances = a.square().mean(1) + b.square().mean(1)
    return texture, (2 * (a * b).mean(1) + _STABILITY) / (variances + _STABILITY)


def similarity_weights() -> tuple[Tensor, Tensor]:
    """alpha and beta `[1475]`, fitted by DISTS' authors."""
    spec = find_spec("DISTS_pytorch")
    if spec is None or not spec.submodule_search_locations:
        raise DkicError(f"DISTS: the package DISTS-pytorch, which contains trained weights, is not installed; {install('eval')}")
    path = Path(spec.submodule_search_locations[0]) / "weights.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state["alpha"].detach().flatten(), state["beta"].detach().flatten()
