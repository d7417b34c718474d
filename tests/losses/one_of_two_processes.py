"""A process of test_global_mean, with half a batch under DistributedDataParallel.

python one_of_two_processes.py RANK STORE OUT
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dkic.losses.rate_target import RateTarget
from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss

TARGET = RateTarget(0.5, lambda_alpha=2.0, lambda_beta=0.125)
# Above the target together; the first half alone is below it, and would choose another lambda.
RATES = torch.tensor([0.1, 0.2, 0.9, 1.2], dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 1, 3).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64) * k for k in (1, 2))


def results(model: nn.Module, x: Tensor, x_hat: Tensor, rates: Tensor) -> dict[str, Tensor]:
    """Gradients of model's weight by every loss, and what is the same on every process."""
    out = {"accuracy": discriminator_accuracy(model(x), model(x_hat)), "lambda": torch.tensor(TARGET.weight(rates, 0))}

    def gradient(name: str, loss: Tensor) -> None:
        model.zero_grad()
        loss.backward()
        out[name] = next(model.parameters()).grad.clone()

    for name, loss in (("D", discriminator_loss), ("G", generator_loss)):
        gradient(name, loss(*model(torch.cat((x, x_hat))).chunk(2)))
    bpp = model(x).square().mean((1, 2, 3))
    gradient("rate", TARGET.loss(bpp, rates, 0)[0])
    return out


def main(rank: int, store: str, path: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    x, x_hat = batch()
    model = nn.parallel.DistributedDataParallel(network())
    torch.save(results(model, x[half], x_hat[half], RATES[half]), path)
    dist.barrier()  # neither exits while the other may still be in the last reduction
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
