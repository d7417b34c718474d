"""dkic.ops.gaussian_indexes equals a comparison with each edge, for every rule, table, dtype and layout."""

import math

import pytest
import torch
from ops.layouts import LAYOUTS
from ops.op_cases import LATENT

from dkic.entropy.tables import SCALES
from dkic.ops import gaussian_indexes, gaussian_symbols

TABLES = {
    "compressai": torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)),
    "two": [0.5, 2.0],
    "dense": torch.linspace(1, 1.1, 200, dtype=torch.float64),  # many edges in a bucket
    "full": torch.logspace(-3, 5, 256, dtype=torch.float64),
    "two bytes": torch.logspace(-3, 5, 5000, dtype=torch.float64),
    "equal": [1.0, 1.0, 2.0, 2.0],
    "wide": [1e-300, 1.0, 1e300],
}


def counted(scale, edges) -> torch.Tensor:
    return (scale.double().unsqueeze(-1) > torch.tensor(edges, dtype=torch.float64)).sum(-1)


def scales_around(table) -> torch.Tensor:
    table = torch.as_tensor(table, dtype=torch.float64)
    spread = torch.cat([table * (1 + d) for d in (-0.3, -1e-15, 0, 1e-15, 0.3)])
    return torch.cat([spread, torch.tensor([0.0, -1.0, math.inf, -math.inf], dtype=torch.float64)])


@pytest.mark.parametrize("name", TABLES)
def test_next_larger(name):
    table = torch.as_tensor(TABLES[name], dtype=torch.float64).tolist()
    scale = scales_around(table)
    assert torch.equal(gaussian_indexes(scale, TABLES[name], "next_larger").long(), counted(scale, table[:-1]))


@pytest.mark.parametrize("name", TABLES)
def test_nearest(name):
    table = torch.as_tensor(TABLES[name], dtype=torch.float64).tolist()
    scale = scales_around(table)
    edges = [math.sqrt(a) * math.sqrt(b) for a, b in zip(table, table[1:], strict=False)]
    assert torch.equal(gaussian_indexes(scale, TABLES[name], "nearest").long(), counted(scale, edges))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_default_tables_are_those_of_gaussian_symbols(dtype):
    y, scale, _ = LATENT.tensors(dtype)
    assert torch.equal(gaussian_indexes(scale), gaussian_symbols(y, scale)[1])
    assert torch.equal(gaussian_indexes(torch.from_numpy(SCALES)), torch.arange(64, dtype=torch.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout):
    scale = LATENT.tensors()[1]
    index = gaussian_indexes(layout(scale))
    assert index.is_contiguous() and torch.equal(index, gaussian_indexes(scale))


def test_nan_has_the_last_index():
    """Of either sign: inf - inf is a negative NaN on x86."""
    scale = torch.tensor([math.nan, -math.nan, math.inf]) - torch.tensor([0, 0, math.inf])
    scale = torch.cat([scale, torch.tensor([math.nan, 1]).copysign(torch.tensor([-1.0, 1.0]))])
    assert gaussian_indexes(scale, [1.0, 2.0, 3.0], "next_larger").tolist() == [2, 2, 2, 2, 0]


def test_symbols_with_another_table():
    y, scale, mean = LATENT.tensors()
    symbols, index = gaussian_symbols(y, scale, mean, scales=TABLES["compressai"], rule="next_larger")
    assert torch.equal(symbols, gaussian_symbols(y, scale, mean)[0])
    assert torch.equal(index, gaussian_indexes(scale, TABLES["compressai"], "next_larger"))


@pytest.mark.parametrize(
    ("arguments", "exception", "token"),
    [
        ((1.0,), TypeError, "scale"),
        ((torch.ones(2).int(),), TypeError, "int32"),
        ((torch.tensor(1.0),), ValueError, "batch"),
        ((torch.ones(2), None, "lower"), ValueError, "rule"),
        ((torch.ones(2), [1.0]), ValueError, "2 to 65536"),
        ((torch.ones(2), torch.tensor(1.0)), ValueError, "2 to 65536"),
        ((torch.ones(2), torch.arange(1, 65538.0)), ValueError, "65537"),
        ((torch.ones(2), torch.ones(2, 3)), ValueError, r"scales: .*shape \[2, 3\]"),
        ((torch.ones(2), "12"), TypeError, "scales: must be a list or a 1-dimensional tensor of numbers, and is '12'"),
        ((torch.ones(2), b"12"), TypeError, "scales: must be a list"),
        ((torch.ones(2), [[1.0], [2.0]]), TypeError, "scales: must be a list"),
        ((torch.ones(2), ["a", "b"]), TypeError, "scales: must be a list"),
        ((torch.ones(2), 3), TypeError, "scales: must be a list"),
        ((torch.ones(2), torch.tensor([False, True])), TypeError, "scales: .*bool"),
        ((torch.ones(2), torch.tensor([1j, 2j])), TypeError, "scales: .*complex64"),
        ((torch.ones(2), [2.0, 1.0]), ValueError, "sorted"),
        ((torch.ones(2), [0.0, 1.0]), ValueError, "positive"),
        ((torch.ones(2), [1.0, math.inf]), ValueError, "finite"),
        ((torch.ones(2), [1.0, math.nan]), ValueError, "finite"),
    ],
)
def test_wrong_arguments(arguments, exception, token):
    with pytest.raises(exception, match=token):
        gaussian_indexes(*arguments)


@pytest.mark.parametrize("edges", [[], [0.0], [2.0, 1.0], [math.nan], [math.inf], list(range(1, 65537))], ids=str)
def test_native_code_refuses_edges(edges):
    with pytest.raises(RuntimeError, match="edges"):
        torch.ops.dkic.gaussian_indexes(torch.ones(2), edges)


def test_inside_torch():
    scale = LATENT.tensors()[1]
    torch.library.opcheck(torch.ops.dkic.gaussian_indexes.default, (scale, [0.5, 1.0]))
    compiled = torch.compile(lambda s: gaussian_indexes(s, [0.5, 1.0, 2.0], "next_larger"), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(scale), gaussian_indexes(scale, [0.5, 1.0, 2.0], "next_larger"))

    class Indexes(torch.nn.Module):
        def forward(self, s):
            return gaussian_indexes(s)

    assert torch.equal(torch.export.export(Indexes(), (scale,)).module()(scale), gaussian_indexes(scale))
