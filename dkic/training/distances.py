"""The perceptual part of a recipe's loss: a weighted sum of distances between images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dkic.losses.color import color_distance
from dkic.losses.dists import DISTS
from dkic.losses.lpips import LPIPS
from dkic.training.along_quality import along
from dkic.training.recipe import Recipe


class Distances(nn.Module):
    """Those that the recipe weighs; networks of the others are not loaded.

    LPIPS of the recipe's net and the distance of colors are of all images of a batch. DISTS and LPIPS-VGG, which take several
    times the work, are of `vgg_crops` of them each, one's after the other's, and weigh as much as if they were of all.

    Args:
        recipe: see Recipe.
        backbone: of LPIPS' net, see `dkic.losses.lpips.LPIPS`. VGG-16's is found as `load_backbone` says.
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
            for layers in self.backbones():
                layers.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def backbones(self) -> list[nn.Module]:
        """The convolutions of the networks: modules that are called, one after the other."""
        found: list[nn.Module] = []
        for network in self.networks.values():
            assert isinstance(network, DISTS | LPIPS)
            found += network.stages if isinstance(network, DISTS) else [network.backbone]
        return found

    def forward(self, x: Tensor, x_hat: Tensor, quality: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum for each image `[N]`, and every distance `[n]`, unweighted, by the weights' names.

        x, x_hat: `[N, 3, H, W]` in [0, 1]. quality: `[N]`, or None where no weight depends on it.
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
        if self.weights.color:
            distances["color"] = color_distance(x, x_hat)
            total = total + along(self.weights.color, quality) * distances["color"]
        return total, distances
