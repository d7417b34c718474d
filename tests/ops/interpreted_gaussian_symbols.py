"""The symbols' Triton kernel in Triton's interpreter; test_gaussian_symbols_triton.py runs this file."""

import math

import numpy as np
import pytest
import torch
from host_reads import NoHostReads
from ops import interpreter  # noqa: F401  (interpreter: faster)
from ops.layouts import LAYOUTS
from ops.op_cases import LATENT, LIKELIHOOD_CASES, LikelihoodCase
from torch import Tensor

from dkic.coding import rans
from dkic.entropy.tables import SCALES, gaussian_tables
from dkic.ops.triton.gaussian_symbols import forward

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TABLES = (0.11, 256.0, 64)


def assert_as_on_the_cpu(y: Tensor, scale: Tensor, mean: Tensor | None = None, tables=TABLES) -> None:
    actual, expected = forward(y, scale, mean, *tables), torch.ops.dkic.gaussian_symbols(y, scale, mean, *tables)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.is_contiguous() and torch.equal(a, e)


@pytest.mark.parametrize("case", LIKELIHOOD_CASES, ids=str)
def test_equals_the_cpu(case):
    assert_as_on_the_cpu(*case.tensors(torch.float32))


@pytest.mark.parametrize("others", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pair_of_dtypes(dtype, others):
    y, scale, mean = LATENT.tensors()
    assert_as_on_the_cpu(y.to(dtype), scale.to(others), mean.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_read_in_place(layout, monkeypatch):
    tensors = [layout(t) for t in LikelihoodCase("", (2, 6, 9, 17)).tensors(torch.float32)]
    monkeypatch.setattr(Tensor, "contiguous", None, raising=False)
    assert_as_on_the_cpu(*tensors)


def test_axes_that_never_merge():
    tensors = LikelihoodCase("", (2, 3, 4, 2, 5, 2, 3)).tensors(torch.float32)
    assert_as_on_the_cpu(*(t.permute(6, 5, 4, 3, 2, 1, 0).contiguous().permute(6, 5, 4, 3, 2, 1, 0) for t in tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_indexes_on_either_side_of_every_edge(dtype):
    """float32 numbers next to the 63 boundaries and to the scales of the tables."""
    step = math.log(SCALES[-1] / SCALES[0]) / 63
    at = np.concatenate([np.exp(np.log(SCALES[:-1]) + step / 2), SCALES, 2 * SCALES, SCALES / 2]).astype(np.float32)
    near = np.concatenate([(at.view(np.int32) + steps).view(np.float32) for steps in range(-4, 5)])
    scale = torch.from_numpy(near)[None].to(dtype)
    assert_as_on_the_cpu(torch.zeros_like(scale), scale)
    scale = torch.tensor([[0.0, -0.0, -1.0, -math.inf, 1e-7, math.inf, 6e4]], dtype=dtype)
    assert_as_on_the_cpu(torch.zeros_like(scale), scale)


@pytest.mark.parametrize("tables", [(0.5, 300.0, 7), (1e-30, 1e5, 255), (0.11, 256.0, 2)])
def test_other_tables(tables):
    scale = torch.logspace(-8, 6, 500)[None]
    assert_as_on_the_cpu(torch.zeros_like(scale), scale, tables=tables)


def test_halves_are_rounded_to_even_and_int32_is_used_to_its_ends():
    y = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.0**31 - 1, -(2.0**31), 2.0**31 - 0.75]], dtype=torch.float64)
    symbols = forward(y, torch.ones_like(y), None, *TABLES)[0]
    assert symbols.tolist() == [[-2, -2, 0, 0, 2, 2, 2**31 - 1, -(2**31), 2**31 - 1]]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e9, -3e9])
def test_what_has_no_symbol_has_no_table(which, value):
    tensors = LATENT.tensors(torch.float32)
    tensors[which][1, 2, 3, 4] = value
    if which == 1 and not math.isnan(value):
        assert_as_on_the_cpu(*tensors)
        return
    symbols, index = forward(*tensors, *TABLES)
    assert (index == 255).nonzero().tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="indexes: must be below the number of tables"):
        rans.encode(symbols.flatten(), index.flatten(), gaussian_tables())


def test_does_not_wait_for_its_kernel():
    with NoHostReads():
        forward(*LATENT.tensors(torch.float32), *TABLES)


@pytest.mark.parametrize(
    "tables", [(0.0, 256.0, 64), (2.0, 1.0, 64), (0.11, 256.0, 1), (1e-30, 1e5, 256), (0.11, 256.0, 70), (0.11, math.inf, 64)]
)
def test_tables_too_close_are_refused(tables):
    y = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="gaussian_symbols: "):
        forward(y, y, None, *tables)
