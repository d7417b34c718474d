"""Equations 4 and 5 as printed, their gradients, and that descent improves each side."""

import math

import pytest
import torch

from dkic.losses.relativistic_gan import discriminator_accuracy, discriminator_loss, generator_loss

LOSSES = (discriminator_loss, generator_loss)


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_the_letter(real: torch.Tensor, fake: torch.Tensor) -> tuple[float, float]:
    d_real, d_fake = torch.sigmoid(real - fake.mean()), torch.sigmoid(fake - real.mean())
    l_d = -d_real.log().mean() - (1 - d_fake).log().mean()
    l_g = -(1 - d_real).log().mean() - d_fake.log().mean()
    return l_d.item(), l_g.item()


def test_the_losses_are_the_equations():
    real, fake = logits(0), logits(1) - 1
    losses = discriminator_loss(real, fake).item(), generator_loss(real, fake).item()
    assert losses == pytest.approx(by_the_letter(real, fake))


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_logits_cost_2_log_2(loss):
    assert loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_depend_only_on_differences(loss):
    real, fake = logits(0), logits(1)
    torch.testing.assert_close(loss(real + 7, fake + 7), loss(real, fake))


def test_generator_loss_is_discriminator_loss_with_roles_exchanged():
    real, fake = logits(0), logits(1)
    assert torch.equal(generator_loss(real, fake), discriminator_loss(fake, real))


def test_the_discriminators_gradient_has_both_terms():
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    assert torch.autograd.gradcheck(discriminator_loss, (real, fake))


def test_generator_loss_gives_real_logits_no_gradient():
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    generator_loss(real, fake).backward()
    assert real.grad is None and fake.grad.all()
    assert torch.autograd.gradcheck(lambda f: generator_loss(real.detach(), f), fake)


def test_descent_separates_and_aligns_logits():
    """The discriminator's steps part the logits, the generator's raise the fake ones."""
    real, fake = logits(0).requires_grad_(), logits(1).requires_grad_()
    discriminator_loss(real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake.grad = None
    generator_loss(real, fake).backward()
    assert (fake.grad < 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_stay_finite(loss, dtype):
    real = torch.full((1, 1, 2, 2), 1e4, dtype=dtype, requires_grad=True)
    fake = torch.full((1, 1, 2, 2), -1e4, dtype=dtype, requires_grad=True)
    value = loss(real, fake)
    value.backward()
    assert value.isfinite() and fake.grad.isfinite().all()


def test_accuracy_counts_both_halves():
    real, fake = torch.tensor([1.0, 1.0, -3.0, 1.0]), torch.tensor([-1.0, -1.0, -1.0, 2.0])  # means 0 and -0.25
    assert discriminator_accuracy(real, fake).item() == pytest.approx(6 / 8)
    assert discriminator_accuracy(real, real).item() == 0.5
    assert not discriminator_accuracy(real.requires_grad_(), fake).requires_grad


@pytest.mark.parametrize("function", [*LOSSES, discriminator_accuracy])
def test_logits_must_be_of_one_shape(function):
    with pytest.raises(ValueError, match=r"\[2, 1, 3, 3\] and \[2, 1, 3, 4\]"):
        function(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 4))
    with pytest.raises(ValueError, match="empty"):
        function(torch.ones(0, 1, 3, 3), torch.ones(0, 1, 3, 3))
