"""Another machine's arithmetic under float64-1: what it may differ by is absorbed by the grids of means and scales, and more is
noticed. That exact-1 is above all that: tests/quantized/test_quantized_networks.py."""

from pathlib import Path

import pytest
import torch
from photographs import crop
from quantized.quantized_models import real

from dkic.coding.codec import Codec
from dkic.coding.latent import symbols_of
from dkic.coding.transforms import analyse
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
    """The weights with each parameter of the entropy model off by a relative error, freshly loaded."""
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


def test_a_file_is_decoded_the_same_where_arithmetic_differs_in_the_last_bits(float64, file, x):
    here, there = elsewhere(float64, 0), elsewhere(float64, 1e-12)
    name = "0.0.weight"
    assert not torch.equal(here.model.h_s.get_parameter(name), there.model.h_s.get_parameter(name))
    assert (Codec([here]).decompress(file, "numpy") == Codec([there]).decompress(file, "numpy")).all()
    with torch.inference_mode():
        coded = symbols_of(*analyse(x, here), here, here.quality)
        same(coded, symbols_of(*analyse(x, there), there, there.quality))
    assert sum(len(symbols.unique()) > 8 for symbols, _ in coded) > 3 and len(torch.cat([i for _, i in coded[1:]]).unique()) > 8


def test_a_file_from_other_arithmetic_is_refused(float64, file):
    with pytest.raises(FormatError, match="the file was encoded with other arithmetic than this machine's"):
        Codec([elsewhere(float64, 1e-3)]).decompress(file)


def test_one_thread_or_two_code_the_same(x):
    weights = load_weights(find_weights("tiny")[0])
    before = torch.get_num_threads()
    coded = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # What float32 sees is the encoder's own affair; the decoder repeats only what follows z and the symbols.
            with torch.inference_mode():
                coded.append(symbols_of(*analyse(x, weights), weights, weights.quality))
    finally:
        torch.set_num_threads(before)
    same(*coded)


def same(ours: list, theirs: list) -> None:
    """Equal symbols and equal table indexes, pass after pass."""
    assert len(ours) == len(theirs) > 1
    for (symbols, indexes), (others, other_indexes) in zip(ours, theirs, strict=True):
        assert torch.equal(symbols, others) and torch.equal(indexes, other_indexes)
