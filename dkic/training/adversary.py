"""The discriminator's side of a run: equations 4 and 5 of the paper."""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss
from dkic.models.discriminator import Discriminator


class Adversary:
    """A discriminator and its optimizer.

    Args:
        latent_channels: of the model that it judges.
        width: see `Discriminator`.
        micro_batches: of a step, each of which adds its share of the gradients.
        accelerator: where it computes.

    Attributes: `discriminator`; `shared`, what wraps it where processes share gradients; `optimizer`.
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
        """The generator's weighted loss, differentiable, and both sides' figures. Adds the discriminator's gradients.

        Args:
            x, x_hat: images and reconstructions, `[N, 3, H, W]` in [0, 1].
            y_hat: the quantized latent, see `Discriminator`.
            weight: of the generator's loss, one or those of the images `[N]`.
        """
        both = torch.cat((x, x_hat.detach()))
        real, fake = self.shared(both, y_hat.detach().repeat(2, 1, 1, 1)).chunk(2)
        loss = discriminator_loss(real, fake)
        (loss / self._micro_batches).backward()
        # Not through what shares gradients between processes: this pass has none for the discriminator.
        with _constant(self.discriminator):
            fake_logits = self.discriminator(x_hat, y_hat)
        gan = generator_loss(real, fake_logits, weight)
        figures = {"gan": generator_loss(real, fake_logits.detach()), "discriminator": loss}
        return gan, figures | {"discriminator_accuracy": discriminator_accuracy(real, fake)}

    @contextlib.contextmanager
    def restored_on_failure(self) -> Iterator[None]:
        """An error in it leaves the spectral norms' estimates, which every forward pass refines, as they were."""
        before = [(buffer, buffer.clone()) for buffer in self.discriminator.buffers()]
        try:
            yield
        except Exception:
            for buffer, value in before:
                buffer.copy_(value)
            raise


@contextlib.contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """In it no parameter of a module learns, and its spectral norms' estimates stay as they are."""
    module.requires_grad_(False).eval()
    try:
        yield
    finally:
        module.requires_grad_(True).train()
