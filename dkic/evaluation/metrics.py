"""Distortion of decoded images against their originals, on 8-bit pixels, in float32."""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dkic.coding.tiles import tile_side
from dkic.losses.dists import DISTS
from dkic.losses.lpips import LPIPS
from dkic.losses.lpips_tiles import lpips_in_tiles

# Five scales with an 11-pixel window need more than 160 pixels along each side.
MS_SSIM_LEAST_SIDE = 161
SSIMULACRA2_LEAST_SIDE = 8


def batch(*images: np.ndarray) -> Tensor:
    """uint8 `[H, W, 3]` images of one size -> uint8 `[N, 3, H, W]`, as the metrics take them."""
    for p in images:
        if p.dtype != np.uint8 or p.ndim != 3 or p.shape[2] != 3 or p.shape != images[0].shape:
            raise ValueError(f"images: must be uint8 [H, W, 3] of one size, not {p.dtype} {list(p.shape)}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared error over all channels, on the scale 0 to 255, `[N]`, of uint8 `[N, 3, H, W]`."""
    _check(x, x_hat)
    return (x.float() - x_hat.float()).square().mean((1, 2, 3))


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """PSNR in dB over all channels, `[N]`, of uint8 `[N, 3, H, W]`; infinite for equal images."""
    return 10 * torch.log10(255**2 / mse(x, x_hat))


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """MS-SSIM (Wang et al. 2003), the mean over RGB, `[N]`, of uint8 `[N, 3, H, W]`, by pytorch-msssim.

    NaN if a side is below 161 pixels, for which it is not defined.
    """
    _check(x, x_hat)
    if min(x.shape[2:]) < MS_SSIM_LEAST_SIDE:
        return torch.full((len(x),), math.nan, dtype=torch.float32, device=x.device)
    from pytorch_msssim import ms_ssim as by_pytorch_msssim

    with torch.device(x.device):  # pytorch-msssim makes its window on torch's default device
        return by_pytorch_msssim(x.float(), x_hat.float(), data_range=255, size_average=False)


@torch.inference_mode()
def lpips(x: Tensor, x_hat: Tensor, network: LPIPS) -> Tensor:
    """LPIPS `[N]` of uint8 `[N, 3, H, W]`; NaN if a side is below the network's minimum (31 pixels for "alex").

    Images above 4 megapixels are processed in tiles, as in `Codec`. "alex" takes 0.5 GB for 16 megapixels (whole, 3.0)
    and 0.4 for 64 (11.7), in the same time; "vgg" takes 3.5 GB for 4.
    """
    _check(x, x_hat)
    if min(x.shape[2:]) < network.backbone.min_side:
        return torch.full((len(x),), math.nan, dtype=torch.float32, device=x.device)
    if tile := tile_side(x.shape[2], x.shape[3], None):
        return lpips_in_tiles(network, x, x_hat, tile)
    return network(x.float() / 255, x_hat.float() / 255)


@torch.inference_mode()
def dists(x: Tensor, x_hat: Tensor, network: DISTS) -> Tensor:
    """DISTS `[N]` of uint8 `[N, 3, H, W]`, at the images' own resolution."""
    _check(x, x_hat)
    return network(x.float() / 255, x_hat.float() / 255)


def ssimulacra2(x: Tensor, x_hat: Tensor) -> Tensor:
    """SSIMULACRA2 `[N]` of uint8 `[N, 3, H, W]`, by the package `ssimulacra2`: 100 for equal images, 30 for low quality.

    NaN if a side is below 8 pixels, for which it is not defined. About 2 s for each megapixel.
    """
    from ssimulacra2 import compute_ssimulacra2

    _check(x, x_hat)
    if min(x.shape[2:]) < SSIMULACRA2_LEAST_SIDE:
        return torch.full((len(x),), math.nan, dtype=torch.float32, device=x.device)
    values = [compute_ssimulacra2(_file(a), _file(b)) for a, b in zip(x, x_hat, strict=True)]
    return torch.tensor(values, dtype=torch.float32, device=x.device)


def _file(x: Tensor) -> io.BytesIO:
    """An uncompressed image file of uint8 `[3, H, W]`: the package does not accept arrays."""
    file = io.BytesIO()
    Image.fromarray(x.permute(1, 2, 0).contiguous().cpu().numpy()).save(file, "PPM")
    return file


def _check(x: Tensor, x_hat: Tensor) -> None:
    for name, t in (("x", x), ("x_hat", x_hat)):
        if t.dtype != torch.uint8 or t.ndim != 4 or t.shape[1] != 3 or t.shape != x.shape:
            raise ValueError(f"{name}: must be uint8 [N, 3, H, W] of the shape of x, not {t.dtype} {list(t.shape)}")
