"""Perceptual distortion of a recipe: a weighted sum of distances between images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkic.losses.color import color_distance
from dkic.losses.dists import DISTS
from dkic.losses.lpips import LPIPS
from dkic.losses.ms_ssim import ms_ssim_distance
from dkic.training.along_quality import along
from dkic.training.recipe import Recipe

_WITHOUT_NETWORK = {"color": color_distance, "ms_ssim": ms_ssim_distance}


class Distances(nn.Module):
    """Weighted sum of the perceptual metrics of a recipe.

    Only metrics with a weight are loaded. LPIPS with `lpips_net`, the color distance and MS-SSIM use all images of a batch.
    DISTS and LPIPS-VGG cost several times as much, so each uses `vgg_crops` images, in disjoint ranges of the batch, and is
    scaled to the weight of a full batch.

    Args:
        recipe: see `Recipe`.
        backbone: file of the ImageNet weights of `lpips_net`; see `dkic.losses.lpips.LPIPS`. VGG-16's weights are found as in
            `load_backbone`.

    Raises:
        DkicError: weights or a package of a metric are missing.
    """

    def __init__(self, recipe: Recipe, backbone: str | Path | None = None) -> None:
        super().__init__()
        self.weights, self.vgg_crops = recipe.weights, recipe.vgg_crops
        self.networks = nn.ModuleDict()
        if recipe.weights.lpips:
            self.networks["lpips"] = LPIPS(recipe.lpips_net, backbone, check_values=False)
        if recipe.weights.dists:
            self.networks["dists"] = DISTS()
        if recipe.weights.lpips_vgg:
            self.networks["lpips_vgg"] = LPIPS("vgg", check_values=False)
        if recipe.precision == "bfloat16":
            for network in self.networks.values():
                network.backbone.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, x_hat: Tensor, quality: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the distances of images and reconstructions.

        Args:
            x, x_hat: `[N, 3, H, W]` in [0, 1].
            quality: quality of each image, `[N]`; None if no weight depends on it.

        Returns:
            The weighted sum for each image, `[N]`, and the unweighted distances by name: `[N]`, or `[vgg_crops]` for DISTS and
            LPIPS-VGG.
        """
        total = x.new_zeros(len(x))
        distances: dict[str, Tensor] = {}
        first = 0
        for name, network in self.networks.items():
            which = slice(None)
            if name != "lpips":
                which = slice(first, first + self.vgg_crops)
                first += self.vgg_crops
            distances[name] = network(x[which], x_hat[which])
            part = along(getattr(self.weights, name), None if quality is None else quality[which]) * distances[name]
            padding = (which.start or 0, len(x) - (which.stop or len(x)))
            total = total + F.pad(part * (len(x) / len(part)), padding)
        for name, distance in _WITHOUT_NETWORK.items():
            if weight := getattr(self.weights, name):
                distances[name] = distance(x, x_hat)
                total = total + along(weight, quality) * distances[name]
        return total, distances
