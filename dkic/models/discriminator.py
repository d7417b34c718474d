"""HiFiC's conditional PatchGAN discriminator (Mentzer et al. 2020), layer by layer as its TensorFlow code has it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dkic.models.config import LATENT_STRIDE


class Discriminator(nn.Module):
    """Logits of patches: is this the photograph that y_hat was made from, or a reconstruction?

        y_hat -> 3x3, 12 -> nearest, x's size -+
        x -------------------------------------+-> 4x4, 64, /2 -> 4x4, 128, /2 -> 4x4, 256, /2 -> 4x4, 512 -> 4x4, 1

    Leaky ReLU of 0.2 after every layer but the last; spectral norm in all, whose estimate is refined by one power
    iteration at every forward in training mode. A logit sees 70x70 pixels. y_hat is detached: D does not teach it.

    Args:
        latent_channels: channels of y_hat.
        width: channels after the first 4x4 layer; those after it have 2, 4 and 8 times as many, but at most 512.
        condition_channels: what y_hat is reduced to.
    """

    def __init__(self, latent_channels: int, width: int = 64, condition_channels: int = 12) -> None:
        if min(latent_channels, width, condition_channels) < 1:
            given = f"{latent_channels}, {width} and {condition_channels}"
            raise ValueError(f"latent_channels, width and condition_channels must be at least 1, not {given}")
        super().__init__()
        self.latent_channels = latent_channels
        self.condition = nn.Sequential(_conv(latent_channels, condition_channels, 3, padding=1), nn.LeakyReLU(0.2))
        layers: list[nn.Module] = []
        before = 3 + condition_channels
        for i in range(4):
            after = min(width * 2**i, max(width, 512))
            layers += [*_conv_4x4(before, after, stride=2 if i < 3 else 1), nn.LeakyReLU(0.2)]
            before = after
        self.patches = nn.Sequential(*layers, *_conv_4x4(before, 1, stride=1))

    def forward(self, x: Tensor, y_hat: Tensor) -> Tensor:
        """Logits `[N, 1, H/8, W/8]`.

        Args:
            x: photographs or reconstructions `[N, 3, H, W]`, values in [0, 1].
            y_hat: `[N, latent_channels, H/16, W/16]`.
        """
        n, _, h, w = x.shape
        expected = (n, self.latent_channels, h // LATENT_STRIDE, w // LATENT_STRIDE)
        if x.shape[1] != 3 or h % LATENT_STRIDE or w % LATENT_STRIDE or y_hat.shape != expected:
            wanted = f"[N, 3, H, W] and [N, {self.latent_channels}, H/{LATENT_STRIDE}, W/{LATENT_STRIDE}]"
            raise ValueError(f"x and y_hat must have shapes {wanted}, and have {list(x.shape)} and {list(y_hat.shape)}")
        condition = F.interpolate(self.condition(y_hat.detach()), size=(h, w), mode="nearest")
        return self.patches(torch.cat((x, condition), 1))


def _conv_4x4(before: int, after: int, stride: int) -> list[nn.Module]:
    """With TensorFlow's "same" padding: at stride 1 there are 3 rows and columns of it, of which 2 come last."""
    if stride == 1:
        return [nn.ZeroPad2d((1, 2, 1, 2)), _conv(before, after, 4)]
    return [_conv(before, after, 4, stride, padding=1)]


def _conv(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """A convolution under spectral norm. It begins as HiFiC's: weights of N(0, 0.02), no bias."""
    conv = nn.Conv2d(before, after, kernel, stride, padding)
    nn.init.normal_(conv.weight, std=0.02)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return spectral_norm(conv)
