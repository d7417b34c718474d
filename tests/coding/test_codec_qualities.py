"""Qualities, qsteps and target rates of the codec."""

import math

import numpy as np
import pytest
import torch
from photographs import crop

from dkic.coding.codec import Codec
from dkic.coding.container import unpack
from dkic.coding.latent import decode_latent
from dkic.coding.transforms import analyze
from dkic.entropy.quantization import qstep_size
from dkic.entropy.tables import SCALES
from dkic.errors import DkicError
from dkic.evaluation.metrics import batch, psnr


def test_quality_chooses_the_network_and_the_highest_is_the_default(two_qualities):
    assert two_qualities.qualities == [2, 7]
    image = crop(64, 64)
    low, high = two_qualities.compress(image, quality=2), two_qualities.compress(image, quality=7)
    assert unpack(low).header.quality == 2 and unpack(high).header.quality == 7
    assert unpack(low).header.model_hash != unpack(high).header.model_hash
    assert two_qualities.compress(image) == high
    assert len(low) < len(high)
    assert two_qualities.decompress(low).size == two_qualities.decompress(high).size == (64, 64)


def test_target_bpp_uses_most_of_the_budget(codec):
    """Rates between qualities are used: the file is that of an operating point, and the next point is above the target."""
    image = crop(192, 256)
    files = [codec.compress(image, quality, qstep=qstep) for quality, qstep in codec.points.all()]
    sizes = [len(data) for data in files]
    for target in (sizes[0], *range(sizes[0] + 40, sizes[-1], sizes[-1] // 12), sizes[-1]):
        data = codec.compress(image, target_bpp=target * 8 / (192 * 256), verify=True)
        point = files.index(data)
        assert len(data) <= target and (point + 1 == len(files) or sizes[point + 1] > target)
    assert codec.compress(image, target_bpp=100) == files[-1]


def test_unreachable_target_bpp_and_conflicting_options_are_refused(codec):
    image = crop(192, 256)
    low_bpp = min(len(codec.compress(image, 1, qstep=qstep)) for qstep in (4, 3, 2)) * 8 / (192 * 256)
    assert len(codec.compress(image, target_bpp=low_bpp)) * 8 / (192 * 256) <= low_bpp
    with pytest.raises(DkicError, match=f"no operating point is within .* the least possible for this image is {low_bpp:.6g}"):
        codec.compress(image, target_bpp=low_bpp * 0.9)
    for target in (0, -1, math.nan, "0.3", True):
        with pytest.raises(DkicError, match="^target_bpp: must be a positive number"):
            codec.compress(image, target_bpp=target)
    for option in ({"quality": 2}, {"qstep": 1}):
        with pytest.raises(DkicError, match=f"{min(option)}: can't be combined with target_bpp"):
            codec.compress(image, target_bpp=1, **option)


@pytest.mark.parametrize("qstep", [-8, -3, 1, 2, 8])
def test_qstep_changes_the_quantization_of_the_latent(codec, qstep):
    """Neighboring qsteps differ by the ratio of neighboring scales; y_hat stays a multiple of 1/64, like the means."""
    image = crop(128, 128)
    data = codec.compress(image, 3, qstep=qstep)
    assert unpack(data).header.qstep == qstep
    weights = codec.weights_of(3)
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    y_hat, y = decode_latent(unpack(data), weights), analyze(x, weights)[0]
    size = qstep_size(qstep)
    assert size == pytest.approx((SCALES[1] / SCALES[0]) ** qstep, abs=1 / 128)
    assert (y_hat - y).abs().max() <= size / 2 + 1 / 64
    assert torch.equal(y_hat * 64, (y_hat * 64).round())
    plain = codec.compress(image, 3)
    assert (len(data) < len(plain)) == (qstep > 0)
    if qstep < 0:
        finer, whole = (batch(image, codec.decompress(d, "numpy")) for d in (data, plain))
        assert psnr(finer[:1], finer[1:]) > psnr(whole[:1], whole[1:])


@pytest.mark.parametrize("qstep", [-9, 9, 0.5, "fine"])
def test_an_invalid_qstep_is_refused(codec, qstep):
    with pytest.raises(DkicError, match=f"qstep: must be an integer from -8 to 8, not {qstep}"):
        codec.compress(crop(8, 8), qstep=qstep)


@pytest.mark.parametrize("quality", ["high", "2", 2.5, math.nan, True])
def test_a_quality_that_is_no_integer_is_refused(two_qualities, quality):
    with pytest.raises(DkicError, match="^quality: must be an integer, and is "):
        two_qualities.compress(crop(8, 8), quality=quality)


@pytest.mark.parametrize("quality", [0, 3, -1, 256])
def test_an_unknown_quality_is_refused_and_qualities_are_listed(two_qualities, quality):
    with pytest.raises(DkicError, match=f"quality {quality}: the model does not have it; use 2, 7"):
        two_qualities.compress(crop(8, 8), quality=quality)


def test_a_quality_may_be_any_number_type(two_qualities):
    image = crop(8, 8)
    assert len({two_qualities.compress(image, quality=quality) for quality in (2, 2.0, np.int64(2))}) == 1


def test_two_weights_files_of_one_quality_are_refused(two_qualities):
    weights = two_qualities.weights_of(2)
    with pytest.raises(DkicError, match="two have the same quality"):
        Codec([weights, weights])
