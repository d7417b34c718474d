"""A small codec of your own: LDCN blocks in the transforms, and gaussian_likelihood as the entropy model.

    python examples/ldcn_codec.py [--image photo.png] [--steps 300]

Trains on random crops of one image and prints rate and PSNR.
"""

import argparse
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dkic.demo import PHOTO
from dkic.nn import LDCNBlock
from dkic.ops import gaussian_likelihood

CHANNELS, LATENT, GROUPS = 32, 48, 4


class SmallCodec(nn.Module):
    """Image `[N, 3, H, W]` in [0, 1], H and W multiples of 8 -> reconstruction and bits `[N]`. One scale per latent channel."""

    def __init__(self) -> None:
        super().__init__()
        self.analysis = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 8, stride=4, padding=2),
            LDCNBlock(CHANNELS, GROUPS),
            nn.Conv2d(CHANNELS, LATENT, 4, stride=2, padding=1),
        )
        self.synthesis = nn.Sequential(
            nn.ConvTranspose2d(LATENT, CHANNELS, 4, stride=2, padding=1),
            LDCNBlock(CHANNELS, GROUPS),
            nn.ConvTranspose2d(CHANNELS, 3, 8, stride=4, padding=2),
        )
        self.log_scale = nn.Parameter(torch.zeros(1, LATENT, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.analysis(x - 0.5) * 8
        scale = self.log_scale.exp().expand_as(y)  # expanded tensors are read in place
        y_hat, bits = gaussian_likelihood(y, scale, quantize="noise" if self.training else "round", reduction="sum")
        return self.synthesis(y_hat / 8) + 0.5, bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=PHOTO)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    pixels = np.array(Image.open(arguments.image).convert("RGB"))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    codec = SmallCodec().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(codec.parameters(), 2e-3)
    for step in range(1, arguments.steps + 1):
        crops = []
        for _ in range(4):
            top, left = (int(torch.randint(side - 127, ())) for side in image.shape[2:])
            crops.append(image[:, :, top : top + 128, left : left + 128])
        x = torch.cat(crops).contiguous(memory_format=torch.channels_last)
        x_hat, bits = codec(x)
        bpp, mse = bits.mean() / 128**2, (x_hat - x).square().mean()
        loss = bpp + 0.01 * 255**2 * mse
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == arguments.steps:
            print(f"step {step}: {bpp.item():.3f} bpp, {-10 * math.log10(mse.item()):.2f} dB")

    codec.eval()
    height, width = (side // 8 * 8 for side in image.shape[2:])
    x = image[:, :, :height, :width]
    with torch.no_grad():
        x_hat, bits = codec(x)
    mse = (x_hat.clamp(0, 1) - x).square().mean().item()
    print(f"whole image, rounded: {bits.item() / (height * width):.3f} bpp, {-10 * math.log10(mse):.2f} dB")


if __name__ == "__main__":
    main()
