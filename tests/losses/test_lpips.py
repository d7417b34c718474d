"""LPIPS: the values of the lpips package, finite gradients, and checks of the inputs."""

import importlib

import lpips
import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from torch import Tensor

from dkic.errors import DkicError
from dkic.losses.lpips import LPIPS, _unit


def photo(size: int, top: int = 150) -> Tensor:
    return torch.from_numpy(crop(size, size, top)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    need_backbone("alex")
    return LPIPS("alex")


def package(net: str, ours: LPIPS) -> torch.nn.Module:
    """The package's own, with the same backbone: it would have it downloaded."""
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    weights = ours.backbone.state_dict()
    theirs.net.load_state_dict({name: weights[name.partition(".")[2]] for name in theirs.net.state_dict()})
    return theirs


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning", "ignore:Arguments other than:UserWarning")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_values_equal_the_packages(net):
    need_backbone(net)
    ours = LPIPS(net)
    theirs, x = package(net, ours), photo(64)
    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    distorted = [(x + noise).clamp(0, 1), blurred, x * 0.98, torch.zeros_like(x), torch.ones_like(x), photo(64, 300)]
    x, x_hat = x.expand(len(distorted), -1, -1, -1), torch.cat(distorted)
    with torch.no_grad():
        got, expected = ours(x, x_hat), theirs(x, x_hat, normalize=True).flatten()
    assert got.shape == (len(distorted),)
    assert (got - expected).abs().max() < 1e-6
    assert got.min() > 1e-5 and got.max() > 0.5


def test_worse_images_have_larger_distances(alex):
    x = photo(96)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    distances = [alex(x, (x + s * noise).clamp(0, 1)).item() for s in (0, 0.02, 0.1, 0.3)]
    assert distances[0] < 1e-9 and distances == sorted(set(distances))


@pytest.mark.parametrize("image", [photo(64), torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])
def test_the_gradient_is_finite_at_equal_images(alex, image):
    x_hat = image.clone().requires_grad_()
    alex(image, x_hat).sum().backward()
    assert torch.equal(x_hat.grad, torch.zeros_like(x_hat))


def test_the_gradient_is_finite_where_there_are_no_features():
    features = torch.zeros(1, 2, 2, 8, requires_grad=True)
    (_unit(features) - 1).square().sum().backward()
    assert features.grad.isfinite().all()
    theirs = torch.zeros(1, 2, 2, 8, requires_grad=True)
    (theirs / ((theirs**2).sum(-1, keepdim=True).sqrt() + 1e-10) - 1).square().sum().backward()
    assert theirs.grad.isnan().any()  # the epsilon outside the root, as in the package


def test_the_gradient_is_that_of_the_value(alex):
    x = photo(40).double()
    try:
        alex.double()
        x_hat = (x * 0.9 + 0.05).requires_grad_()
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(alex(x, x_hat).sum(), x_hat)
        h = 1e-6
        slope = (alex(x, x_hat + h * direction) - alex(x, x_hat - h * direction)).item() / (2 * h)
    finally:
        alex.float()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5)


def test_the_gradient_has_the_memory_format_of_the_features(alex):
    # With another one, each elementwise operation of the backward pass is about ten times as slow.
    a, b = (torch.rand(2, 64, 9, 7).to(memory_format=torch.channels_last) for _ in range(2))
    alex.distances(0, a, b.requires_grad_()).sum().backward()
    assert b.grad.is_contiguous(memory_format=torch.channels_last)


def test_descent_on_it_brings_an_image_closer(alex):
    x = photo(64)
    x_hat = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([x_hat], 0.01)
    first = alex(x, x_hat).item()
    for _ in range(5):
        optimizer.zero_grad()
        alex(x, x_hat.clamp(0, 1)).sum().backward()
        optimizer.step()
    assert alex(x, x_hat.clamp(0, 1)).item() < 0.7 * first


def test_no_parameter_requires_a_gradient(alex):
    assert not any(p.requires_grad for p in alex.parameters()) and not alex.backbone.training


def test_the_distance_has_full_precision_under_autocast(alex):
    x, x_hat = photo(64), photo(64) * 0.9
    with torch.autocast("cpu", torch.bfloat16):
        distance = alex(x, x_hat)
    assert distance.dtype == torch.float32
    assert distance.item() == pytest.approx(alex(x, x_hat).item(), rel=0.05)


def test_an_empty_batch_has_no_distances(alex):
    assert alex(torch.ones(0, 3, 64, 64), torch.ones(0, 3, 64, 64)).shape == (0,)


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_values_beyond_0_and_1_are_refused(alex, value, place):
    pair = [photo(64), photo(64)]
    pair[place] = pair[place].clone()
    pair[place][0, 1, 5, 5] = value
    with pytest.raises(ValueError, match=f"^LPIPS/{('x', 'x_hat')[place]}: has values from .*; give values in"):
        alex(*pair)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.ones(1, 1, 64, 64), ValueError, r"give \[N, 3, H, W\] with sides of at least 31"),
        (torch.ones(3, 64, 64), ValueError, r"give \[N, 3, H, W\]"),
        (torch.ones(1, 3, 30, 64), ValueError, r"has shape \[1, 3, 30, 64\]; .* sides of at least 31"),
        (torch.ones(1, 3, 64, 64, dtype=torch.uint8), TypeError, "is torch.uint8; give floating-point"),
    ],
)
def test_other_inputs_are_refused(alex, x, error, match):
    with pytest.raises(error, match=match):
        alex(x, x)


def test_images_of_two_shapes_are_refused(alex):
    with pytest.raises(ValueError, match="give images of one shape"):
        alex(photo(64), photo(32))


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16)])
def test_the_smallest_image(net, side):
    need_backbone(net)
    assert LPIPS(net)(photo(side), photo(side, 300)).item() > 0


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    need_backbone("alex")
    monkeypatch.setattr(importlib.import_module("dkic.losses.lpips"), "find_spec", lambda name: None)
    with pytest.raises(DkicError, match=r"pip install -e '.\[train\]'"):
        LPIPS("alex")
