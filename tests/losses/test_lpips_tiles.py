"""LPIPS in tiles: the value of the whole image, for any tile size."""

from collections.abc import Iterator

import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from torch import Tensor

from dkic.coding import tiles
from dkic.evaluation.metrics import batch, lpips
from dkic.losses import lpips_tiles
from dkic.losses.lpips import LPIPS
from dkic.losses.lpips_backbone import NETS, Backbone
from dkic.losses.lpips_tiles import lpips_in_tiles

REACH = {"alex": 81, "vgg": 90}


def network_of(net: str) -> LPIPS:
    need_backbone(net)
    return LPIPS(net)


def pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two images and what became of them: more noise to the right, so that no two tiles are alike."""
    x = batch(crop(height, width, 0, 0), crop(height, width, 100, 200))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * torch.linspace(5, 60, width)
    return x, (x + noise).clamp(0, 255).to(torch.uint8)


def whole(network: LPIPS, x: Tensor, x_hat: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(x.float() / 255, x_hat.float() / 255)


@pytest.mark.parametrize(
    ("net", "height", "width", "tile"),
    [
        ("alex", 201, 331, 64),
        ("alex", 200, 263, 96),
        ("alex", 31, 335, 64),
        ("alex", 335, 95, 64),
        ("alex", 255, 257, 80),
        ("alex", 90, 100, 1024),
        ("vgg", 65, 130, 64),
        ("vgg", 129, 16, 64),
    ],
)
def test_tiles_give_the_value_of_the_whole_image(net, height, width, tile):
    network = network_of(net)
    x, x_hat = pair(height, width)
    expected = whole(network, x, x_hat)
    got = lpips_in_tiles(network, x, x_hat, tile)
    assert got.dtype == torch.float32 and got.shape == (2,)
    assert expected[0] != expected[1] and (got - expected).abs().max() < 1e-6
    assert lpips_in_tiles(network, x, x, tile).max() < 1e-9


def test_only_large_images_are_tiled(monkeypatch):
    network = network_of("alex")
    x, x_hat = pair(150, 200)
    assert torch.equal(lpips(x, x_hat, network), whole(network, x, x_hat))  # bit by bit
    monkeypatch.setattr(tiles, "AUTOMATIC_ABOVE", 150 * 200 - 1)
    monkeypatch.setattr(tiles, "AUTOMATIC_TILE", 64)
    seen = []
    network.backbone[0].register_forward_pre_hook(lambda *_: seen.append("whole"))
    got = lpips(x, x_hat, network)
    assert seen == [] and (got - whole(network, x, x_hat)).abs().max() < 1e-6 and seen == ["whole", "whole"]


@pytest.mark.parametrize("net", NETS)
def test_every_position_belongs_to_one_tile(net):
    """At all sides up to where a fifth tile begins: none is empty, and what a tile sees is bounded."""
    with torch.device("meta"):
        backbone = Backbone(net)
    for side in range(backbone.min_side, 4 * 64 + 2):
        bands = list(lpips_tiles.bands(backbone, side, 64))
        assert len(bands) == -(-side // 64)
        assert max(band.pixels.stop - band.pixels.start for band in bands) <= 64 + 16 + 2 * REACH[net]
        for at, size in enumerate(map_sizes(backbone, side)):
            lengths = [band.own[at].stop - band.own[at].start for band in bands]
            assert min(lengths) >= 1 and sum(lengths) == size


def map_sizes(backbone: Backbone, side: int) -> Iterator[int]:
    with torch.device("meta"):
        return (features.shape[3] for features in backbone(torch.empty(1, 3, 31, side)))


def test_a_tile_too_small_is_refused():
    with pytest.raises(ValueError, match="lpips_in_tiles/tile: is 63; give at least 64"):
        lpips_in_tiles(network_of("alex"), *pair(100, 100), tile=63)
