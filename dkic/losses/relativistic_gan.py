"""Relativistic average GAN on patch logits: equations 4 and 5 of the paper, after Jolicoeur-Martineau 2018 and ESRGAN.

    D(a, b) = sigmoid(C(a) - E[C(b)])                            C: the discriminator's logit of a patch
    L_D = -E[log D(x, x_hat)] - E[log(1 - D(x_hat, x))]
    L_G = -E[log(1 - D(x, x_hat))] - E[log D(x_hat, x)]

These are the formulas of the cited works; the paper misprints a parenthesis of equation 4, and 1 - log D in L_G.
E is the mean over all patches of the global batch: of all processes if torch.distributed is initialized.
"""

import torch.nn.functional as F
from torch import Tensor

from dkic.losses.global_mean import global_mean


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_D as a scalar: the mean over this process' patches. It is 2 log 2 = 1.386 if D can't distinguish real and fake.

    Args:
        real, fake: logits C(x) and C(x_hat) of one shape, such as `[N, 1, h, w]`; detach x_hat before.

    Raises:
        ValueError: the shapes differ, or there is no patch.
    """
    _check(real, fake)
    return F.softplus(global_mean(fake) - real).mean() + F.softplus(fake - global_mean(real)).mean()


def generator_loss(real: Tensor, fake: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """L_G as a scalar: the mean over this process' patches. real is detached.

    Args:
        real, fake: logits C(x) and C(x_hat) of one shape `[N, ...]`.
        weight: a factor of all patches, or of the patches of each image `[N]`.

    Raises:
        ValueError: the shapes differ, or there is no patch.
    """
    _check(real, fake)
    real = real.detach()
    if isinstance(weight, Tensor):
        weight = weight.view(-1, *(1 for _ in real.shape[1:]))
    losses = F.softplus(real - global_mean(fake)), F.softplus(global_mean(real) - fake)
    return (weight * losses[0]).mean() + (weight * losses[1]).mean()


def discriminator_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of the global batch's patches that D classifies correctly, as a scalar without gradient.

    D(x, x_hat) > 1/2 and D(x_hat, x) < 1/2 are correct. real, fake: logits of one shape. Raises ValueError as above.
    """
    _check(real, fake)
    real, fake = real.detach(), fake.detach()
    right = (real > global_mean(fake)).float() + (fake < global_mean(real)).float()
    return global_mean(right) / 2


def _check(real: Tensor, fake: Tensor) -> None:
    if real.shape != fake.shape:
        given = f"{list(real.shape)} and {list(fake.shape)}"
        raise ValueError(f"relativistic_gan: real and fake have shapes {given}; give logits of one shape")
    if real.numel() == 0:
        raise ValueError(f"relativistic_gan: real and fake are empty, of shape {list(real.shape)}; give at least one logit")
