"""PSNR, MS-SSIM and LPIPS compared with known values and with other packages."""

import math

import lpips as lpips_package
import numpy as np
import piq
import pytest
import torch
from lpips_weights import need_backbone
from photographs import crop
from torch import Tensor

from dkic.evaluation.metrics import batch, lpips, ms_ssim, psnr
from dkic.losses.lpips import LPIPS


def flat(value: int, side: int = 176) -> Tensor:
    return torch.full((1, 3, side, side), value, dtype=torch.uint8)


def noisy(x: Tensor, *levels: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([(x + level * noise).clamp(0, 255).round().to(torch.uint8) for level in levels])


@pytest.mark.parametrize(("difference", "expected"), [(1, 48.1308), (2, 42.1102), (5, 34.1514), (16, 24.0484), (255, 0.0)])
def test_psnr_of_a_constant_difference(difference, expected):
    assert psnr(flat(0), flat(difference)).item() == pytest.approx(expected, abs=1e-4)
    assert psnr(flat(difference), flat(0)).item() == pytest.approx(expected, abs=1e-4)


def test_psnr_counts_every_channel():
    other = flat(100)
    other[:, 1] += 3
    assert psnr(flat(100), other).item() == pytest.approx(10 * math.log10(255**2 / 3))


def test_equal_images():
    image = batch(crop(176, 200))
    assert psnr(image, image).item() == math.inf
    assert ms_ssim(image, image).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(100, 120), (30, 60), (250, 10)])
def test_ms_ssim_of_flat_images_is_the_luminance_term_of_the_last_scale(a, b):
    c1 = (0.01 * 255) ** 2
    luminance = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ms_ssim(flat(a), flat(b)).item() == pytest.approx(luminance**0.1333, abs=5e-4)


def test_values_equal_another_packages():
    x = batch(crop(176, 208), crop(176, 208, top=20, left=10))
    for level in (3, 12, 50):
        x_hat = noisy(x, level)
        pair = x.float(), x_hat.float()
        assert torch.allclose(psnr(x, x_hat), piq.psnr(*pair, data_range=255, reduction="none"), atol=1e-3)
        theirs = piq.multi_scale_ssim(*pair, data_range=255, reduction="none")
        assert torch.allclose(ms_ssim(x, x_hat), theirs, atol=1e-5)


def test_a_batch_equals_its_images():
    x = batch(crop(176, 208), crop(176, 208, top=20, left=10))
    x_hat = noisy(x, 20)
    for metric in (psnr, ms_ssim):
        alone = torch.cat([metric(x[i : i + 1], x_hat[i : i + 1]) for i in range(2)])
        assert alone[0] != alone[1] and torch.allclose(metric(x, x_hat), alone, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning", "ignore:Arguments other than:UserWarning")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_the_packages(net):
    need_backbone(net)
    network = LPIPS(net)
    theirs = lpips_package.LPIPS(net=net, pnet_rand=True, verbose=False)  # it would download the backbone
    state = network.backbone.state_dict()
    theirs.net.load_state_dict({name: state[name.partition(".")[2]] for name in theirs.net.state_dict()})
    x = batch(crop(80, 96))
    x_hat = noisy(x, 5, 40)
    x = x.expand_as(x_hat)
    with torch.no_grad():
        expected = theirs(x.float() / 127.5 - 1, x_hat.float() / 127.5 - 1).flatten()
    got = lpips(x, x_hat, network)
    assert torch.allclose(got, expected, atol=1e-5) and 0 < got[0] < got[1]


def test_more_noise_gives_worse_values():
    need_backbone("alex")
    x = batch(crop(200, 180))
    x_hat = noisy(x, 0, 5, 15, 40)
    x, network = x.expand_as(x_hat), LPIPS("alex")
    for values in (psnr(x, x_hat), ms_ssim(x, x_hat), -lpips(x, x_hat, network)):
        assert (values.diff() < 0).all()


def test_an_image_too_small_for_a_metric_has_no_value():
    def of(height: int, width: int) -> Tensor:
        return batch(crop(height, width))

    need_backbone("alex")
    assert ms_ssim(of(160, 300), of(160, 300)).isnan().all()
    assert ms_ssim(of(161, 161), of(161, 161)).item() == pytest.approx(1, abs=1e-6)
    assert lpips(of(30, 99), of(30, 99), LPIPS("alex")).isnan().all()
    assert lpips(of(31, 31), of(31, 31), LPIPS("alex")).item() < 1e-9


@pytest.mark.parametrize("metric", [psnr, ms_ssim])
@pytest.mark.parametrize("other", [flat(0, 21), flat(0, 20).float(), flat(0, 20)[:, :1], flat(0, 20)[0]])
def test_other_shapes_and_types_are_refused(metric, other):
    with pytest.raises(ValueError, match="x_hat: must be uint8"):
        metric(flat(0, 20), other)


@pytest.mark.parametrize("other", [crop(20, 21), crop(20, 20).astype(float), crop(20, 20)[:, :, :1], crop(20, 20)[0]])
def test_a_batch_of_different_sizes_is_refused(other):
    with pytest.raises(ValueError, match="must be uint8"):
        batch(np.zeros((20, 20, 3), np.uint8), other)
