"""Arithmetic float64-1 with the errors of another machine: rounding of means and scales absorbs small errors, and larger ones are
detected. For exact-1 see tests/quantized/test_quantized_networks.py."""

import math
from pathlib import Path

import pytest
import torch
from photographs import crop
from quantized.quantized_models import real
from trained_weights import THREE_QUALITIES

from dkic.coding.codec import Codec
from dkic.coding.latent import CodedPart, coded_parts
from dkic.coding.transforms import analyze
from dkic.errors import FormatError
from dkic.hub import find_weights
from dkic.models.weights_file import Weights, load_weights, save_weights


@pytest.fixture(scope="module")
def float64(tmp_path_factory) -> Path:
    """Weights whose entropy networks are not exact."""
    path = tmp_path_factory.mktemp("float64") / "real.safetensors"
    save_weights(path, real(), 1, {})
    return path


def elsewhere(float64: Path, error: float) -> Weights:
    """Newly loaded weights, each parameter of the entropy model with a relative error."""
    weights = load_weights(float64)
    generator = torch.Generator().manual_seed(0)
    for part in (weights.model.h_s, weights.model.context):
        for parameter in part.parameters():
            assert parameter.dtype == torch.float64
            parameter.mul_(1 + error * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return weights


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.from_numpy(crop(256, 256)).permute(2, 0, 1).unsqueeze(0).float() / 255


@pytest.fixture(scope="module")
def file(float64) -> bytes:
    weights = load_weights(float64)
    return Codec([weights]).compress(crop(256, 256), weights.quality)


def test_decoding_is_equal_under_arithmetic_that_differs_in_the_last_bits(float64, file, x):
    here, there = elsewhere(float64, 0), elsewhere(float64, 1e-12)
    name = "0.0.weight"
    assert not torch.equal(here.model.h_s.get_parameter(name), there.model.h_s.get_parameter(name))
    assert (Codec([here]).decompress(file, "numpy") == Codec([there]).decompress(file, "numpy")).all()
    with torch.inference_mode():
        coded = list(coded_parts(*analyze(x, here), here, here.quality))
        same(coded, list(coded_parts(*analyze(x, there), there, there.quality)))
    assert sum(len(part.symbols.unique()) > 8 for part in coded) > 3
    assert len(torch.cat([part.indexes for part in coded[1:]]).unique()) > 8


def test_a_file_from_other_arithmetic_is_refused(float64, file):
    with pytest.raises(FormatError, match="the file was encoded with other arithmetic than this machine's"):
        Codec([elsewhere(float64, 1e-3)]).decompress(file)


def test_a_wrong_mean_of_the_last_pass_is_detected(x):
    """No symbol depends on it: only the image would change."""
    name = find_weights(THREE_QUALITIES)[0]
    weights, wrong = load_weights(name), load_weights(name)
    data = Codec([weights]).compress(crop(256, 256), weights.quality)
    last = wrong.model.context.passes[-1][-1].parameters_of[-1]
    last.bias[0] += math.ceil(1 / last.multiplier[0])  # the first channel's mean: one step of 1/64
    with pytest.raises(FormatError, match="the latents' checksum is wrong"):
        Codec([wrong]).decompress(data)


def test_the_number_of_threads_does_not_change_the_file(x):
    weights = load_weights(find_weights(THREE_QUALITIES)[0])
    before = torch.get_num_threads()
    coded = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # The decoder repeats only the computations that follow z and the symbols.
            with torch.inference_mode():
                coded.append(list(coded_parts(*analyze(x, weights), weights, weights.quality)))
    finally:
        torch.set_num_threads(before)
    same(*coded)


def same(ours: list[CodedPart], theirs: list[CodedPart]) -> None:
    """Equal symbols, table indexes and values, pass after pass."""
    assert len(ours) == len(theirs) > 1
    for our_part, their_part in zip(ours, theirs, strict=True):
        assert all(torch.equal(our, their) for our, their in zip(our_part, their_part, strict=True))
