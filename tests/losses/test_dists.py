"""DISTS, against the package of its authors."""

import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from torch import nn

from dkic.errors import DkicError
from dkic.losses import dists as dists_module
from dkic.losses.dists import DISTS
from dkic.losses.lpips_backbone import load_backbone


@pytest.fixture(scope="module")
def network() -> DISTS:
    need_backbone("vgg")
    return DISTS()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """The package's module with our backbone, since it downloads its own."""
    need_backbone("vgg")
    import DISTS_pytorch
    from torchvision import models

    vgg = models.vgg16(weights=None)
    state = {f"features.{name}": value for name, value in load_backbone("vgg").state_dict().items()}
    vgg.load_state_dict(state, strict=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.vgg16", lambda pretrained: vgg)
        module = DISTS_pytorch.DISTS(load_weights=False)
    alpha, beta = dists_module.similarity_weights()
    module.alpha.data, module.beta.data = alpha.reshape(1, -1, 1, 1), beta.reshape(1, -1, 1, 1)
    return module


def images(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[2, 3, H, W]` each: noise on one image, another image beside the other."""
    first, second = (torch.from_numpy(crop(height, width, top=top)).permute(2, 0, 1).float() / 255 for top in (150, 0))
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    return torch.stack([first, second]), torch.stack([(first + 0.1 * noise).clamp(0, 1), first])


@pytest.mark.parametrize("size", [(64, 80), (37, 51), (1, 1)])
def test_values_equal_the_packages(network, theirs, size):
    x, x_hat = images(*size)
    assert network(x, x_hat) == pytest.approx(theirs(x, x_hat).tolist(), abs=2e-5)


def test_equal_images_have_distance_0(network):
    x, _ = images(64, 64)
    assert network(x, x).abs().max() < 1e-6


def test_gradients(network):
    x, x_hat = images(32, 32)
    x_hat.requires_grad_()
    network(x, x_hat).sum().backward()
    assert x_hat.grad.isfinite().all() and x_hat.grad.abs().max() > 0
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    network(flat, x[:1, :, :16, :16]).sum().backward()
    assert flat.grad.isfinite().all()


def test_the_gradient_has_the_memory_format_of_the_features():
    a, b = (torch.rand(2, 8, 9, 7).to(memory_format=torch.channels_last) for _ in range(2))
    texture, structure = dists_module._similarities(a, b.requires_grad_())
    (texture + structure).sum().backward()
    assert b.grad.is_contiguous(memory_format=torch.channels_last)


def test_other_tensors_are_refused(network):
    with pytest.raises(ValueError, match=r"^DISTS: .* give \[N, 3, H, W\] of one shape"):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
    with pytest.raises(TypeError, match="^DISTS/x: .* give floating-point"):
        network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8))


def test_without_the_package(monkeypatch):
    need_backbone("vgg")
    monkeypatch.setattr(dists_module, "find_spec", lambda package: None)
    with pytest.raises(DkicError, match=r"DISTS: .* pip install -e '.\[eval\]'"):
        DISTS()
