"""HiFiC's conditional PatchGAN discriminator (Mentzer et al. 2020), with the layers of its TensorFlow code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dkic.models.config import LATENT_STRIDE


class Discriminator(nn.Module):
    """Logits of patches: original image (high) or reconstruction (low), given y_hat.

        y_hat -> 3x3, 12 -> nearest, x's size -+
        x -------------------------------------+-> 4x4, 64, /2 -> 4x4, 128, /2 -> 4x4, 256, /2 -> 4x4, 512 -> 4x4, 1

    Leaky ReLU of 0.2 after every layer except the last. Spectral norm in all layers, with one power iteration per forward in
    training mode. The receptive field of a logit is 70x70 pixels. y_hat is detached, so it gets no gradient from the
    discriminator.

    Args:
        latent_channels: channels of y_hat.
        width: channels after the first 4x4 layer; the next layers have 2, 4 and 8 times as many, but at most 512.
        condition_channels: channels that y_hat is reduced to.

    Raises:
        ValueError: an argument is below 1.
    """

    def __init__(self, latent_channels: int, width: int = 64, condition_channels: int = 12) -> None:
        if min(latent_channels, width, condition_channels) < 1:
            given = f"latent_channels, width and condition_channels are {latent_channels}, {width} and {condition_channels}"
            raise ValueError(f"Discriminator: {given}; give at least 1")
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
            x: original images or reconstructions `[N, 3, H, W]`, values in [0, 1]; H and W are multiples of 16.
            y_hat: `[N, latent_channels, H/16, W/16]`.

        Raises:
            ValueError: a shape is not as above.
        """
        n, _, h, w = x.shape
        expected = (n, self.latent_channels, h // LATENT_STRIDE, w // LATENT_STRIDE)
        if x.shape[1] != 3 or h % LATENT_STRIDE or w % LATENT_STRIDE or y_hat.shape != expected:
            wanted = f"[N, 3, H, W] and [N, {self.latent_channels}, H/{LATENT_STRIDE}, W/{LATENT_STRIDE}]"
            shapes = f"{list(x.shape)} and {list(y_hat.shape)}"
            raise ValueError(f"Discriminator: x and y_hat have shapes {shapes}; give {wanted}")
        condition = F.interpolate(self.condition(y_hat.detach()), size=(h, w), mode="nearest")
        return self.patches(torch.cat((x, condition), 1))


def _conv_4x4(before: int, after: int, stride: int) -> list[nn.Module]:
    """A 4x4 convolution with TensorFlow's "same" padding: at stride 1, one row and column before and two after."""
    if stride == 1:
        return [nn.ZeroPad2d((1, 2, 1, 2)), _conv(before, after, 4)]
    return [_conv(before, after, 4, stride, padding=1)]


def _conv(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """A convolution under spectral norm, initialized as in HiFiC: weights from N(0, 0.02), biases of 0."""
    conv = nn.Conv2d(before, after, kernel, stride, padding)
    nn.init.normal_(conv.weight, std=0.02)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return spectral_norm(conv)
