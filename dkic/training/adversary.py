"""GAN losses of a run and the discriminator that they train (PO-DKIC, Eqs. 4 and 5)."""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss
from dkic.models.discriminator import Discriminator


class Adversary:
    """A discriminator with its optimizer.

    Args:
        latent_channels: channels of the codec's latent y.
        width: see `Discriminator`.
        micro_batches: micro-batches per step; gradients are divided by this number.
        accelerator: device and processes of the run.

    Attributes:
        discriminator: the network.
        shared: the network, wrapped in DistributedDataParallel if there are several processes.
        optimizer: Adam over its parameters.
    """

    def __init__(self, latent_channels: int, width: int, micro_batches: int, accelerator: Accelerator) -> None:
        with torch.device("cpu"):
            discriminator = Discriminator(latent_channels, width)
        self.discriminator = discriminator.to(  # type: ignore[call-overload]
            accelerator.device, torch.float32, memory_format=torch.channels_last
        )
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), fused=True)
        self.shared = accelerator.prepare_model(self.discriminator)
        self._micro_batches = micro_batches

    def losses(self, x: Tensor, x_hat: Tensor, y_hat: Tensor, weight: Tensor | float) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the GAN losses and accumulates the discriminator's gradients.

        Args:
            x, x_hat: images and reconstructions, `[N, 3, H, W]` in [0, 1].
            y_hat: quantized latent; see `Discriminator`.
            weight: weight of the generator's loss, a number or `[N]`.

        Returns:
            The weighted generator loss, a differentiable scalar, and the fields `gan`, `discriminator` and
            `discriminator_accuracy` of `StepResult`.
        """
        both = torch.cat((x, x_hat.detach()))
        real, fake = self.shared(both, y_hat.detach().repeat(2, 1, 1, 1)).chunk(2)
        loss = discriminator_loss(real, fake)
        (loss / self._micro_batches).backward()
        # Without DistributedDataParallel, since this pass computes no gradients of the discriminator.
        with _frozen(self.discriminator):
            fake_logits = self.discriminator(x_hat, y_hat)
        gan = generator_loss(real, fake_logits, weight)
        figures = {"gan": generator_loss(real, fake_logits.detach()), "discriminator": loss}
        return gan, figures | {"discriminator_accuracy": discriminator_accuracy(real, fake)}

    @contextlib.contextmanager
    def restored_on_failure(self) -> Iterator[None]:
        """Context manager that restores the buffers of the spectral norm, which forward passes update, if its body raises."""
        before = [(buffer, buffer.clone()) for buffer in self.discriminator.buffers()]
        try:
            yield
        except Exception:
            for buffer, value in before:
                buffer.copy_(value)
            raise


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Context manager in which a module's parameters need no gradient and its spectral-norm buffers are not updated."""
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        module.requires_grad_(True).train()
