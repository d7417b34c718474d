"""dkic.ops.gaussian_symbols gives exactly the rounded residual and the nearest table."""

import math

import numpy as np
import pytest
import torch
from ops.op_cases import LIKELIHOOD_CASES, LikelihoodCase
from torch import Tensor

from dkic.entropy.quantization import coded_index, scale_of_index
from dkic.entropy.tables import SCALES
from dkic.ops import gaussian_symbols

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LOG_STEP = math.log(SCALES[-1] / SCALES[0]) / 63


def plain(y: Tensor, scale: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """The codec's rule: round the residual; round the real-valued index of the scale."""
    computed = torch.float64 if torch.float64 in (y.dtype, scale.dtype) else torch.float32
    residual = y.to(computed) if mean is None else y.to(computed) - mean.to(computed)
    real_index = (scale.double().clamp_min(1e-6).log() - math.log(SCALES[0])) / LOG_STEP
    return residual.round().to(torch.int32), coded_index(real_index)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LIKELIHOOD_CASES, ids=str)
def test_equals_the_codec_s_rule(case, dtype):
    tensors = case.tensors(dtype)
    symbols, index = gaussian_symbols(*tensors)
    assert symbols.dtype == torch.int32 and index.dtype == torch.uint8
    assert symbols.is_contiguous() and index.is_contiguous()
    for actual, expected in zip((symbols, index), plain(*tensors), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_indexes_on_either_side_of_every_edge(dtype):
    """The neighbors in float32 of the 63 middles, and the tables' own scales."""
    middles = np.exp(np.log(SCALES[:-1]) + LOG_STEP / 2).astype(np.float32)
    near = [(middles.view(np.int32) + steps).view(np.float32) for steps in range(-4, 5)]
    for scale in (np.concatenate(near), SCALES.astype(np.float32), 2 * SCALES, SCALES / 2):
        scale = torch.from_numpy(scale.astype(np.float64))[None].to(dtype)
        y = torch.zeros_like(scale)
        assert torch.equal(gaussian_symbols(y, scale)[1], plain(y, scale, None)[1])
    own = torch.from_numpy(SCALES)[None].to(dtype)
    assert gaussian_symbols(torch.zeros_like(own), own)[1].tolist() == [list(range(64))]


def test_indexes_of_a_million_scales():
    generator = torch.Generator().manual_seed(0)
    real_index = torch.rand(1, 1_000_000, generator=generator, dtype=torch.float64) * 70 - 3
    scale = scale_of_index(real_index)
    index = gaussian_symbols(torch.zeros_like(scale), scale)[1]
    assert torch.equal(index, coded_index(real_index))
    index = gaussian_symbols(torch.zeros_like(scale), scale.float())[1]
    assert torch.equal(index, plain(scale, scale.float(), None)[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_invalid_scales_get_the_first_or_the_last_table(dtype):
    scale = torch.tensor([[0.0, -0.0, -1.0, -math.inf, 1e-7, math.inf, 6e4]], dtype=dtype)
    assert gaussian_symbols(torch.zeros_like(scale), scale)[1].tolist() == [[0, 0, 0, 0, 0, 63, 63]]


def test_halves_are_rounded_to_even_and_int32_is_used_to_its_ends():
    y = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.0**31 - 1, -(2.0**31), 2.0**31 - 0.75]], dtype=torch.float64)
    symbols = gaussian_symbols(y, torch.ones_like(y))[0]
    assert symbols.tolist() == [[-2, -2, 0, 0, 2, 2, 2**31 - 1, -(2**31), 2**31 - 1]]


LAYOUTS = [
    lambda t: t.contiguous(memory_format=torch.channels_last),
    lambda t: torch.cat([t, t + 1], 1)[:, : t.shape[1]],
    lambda t: torch.cat([t, t + 1], 1).contiguous(memory_format=torch.channels_last)[:, : t.shape[1]],
    lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    lambda t: torch.stack([t, t + 1], -1).flatten(3)[..., ::2],
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=range(len(LAYOUTS)))
def test_any_layout_gives_the_same(layout):
    tensors = LikelihoodCase("", (2, 40, 9, 17)).tensors(torch.float32)
    changed = [layout(t) for t in tensors]
    assert all(c.stride() != t.stride() and torch.equal(c, t) for c, t in zip(changed, tensors, strict=True))
    for actual, expected in zip(gaussian_symbols(*changed), gaussian_symbols(*tensors), strict=True):
        assert torch.equal(actual, expected) and actual.is_contiguous()


@pytest.mark.parametrize("which", ["y", "scale", "mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e9, -3e9])
def test_residuals_without_a_symbol_are_refused(which, value):
    tensors = dict(zip(("y", "scale", "mean"), LikelihoodCase("", (2, 3, 50, 60)).tensors(torch.float32), strict=True))
    tensors[which][1, 2, 30, 40] = value
    if which == "scale" and not math.isnan(value):
        assert gaussian_symbols(**tensors)[1][1, 2, 30, 40] == (63 if value > 0 else 0)
        return
    with pytest.raises(
        RuntimeError, match="^gaussian_symbols/y: y - mean is not finite or beyond int32, or scale is NaN; [^:]*$"
    ):
        gaussian_symbols(**tensors)


def test_a_wrong_argument_is_named():
    y = torch.zeros(2, 3)
    for arguments, exception, message in (
        ((y, None), TypeError, "scale: must be a tensor, and is a NoneType"),
        ((y, y.int()), TypeError, "scale: must be float32, float64, float16 or bfloat16, and is int32"),
        ((y, y, y[:1]), ValueError, "mean: must have y's shape [2, 3], and has [1, 3]"),
        ((y, y.to("meta")), ValueError, "scale: must be on y's device cpu, and is on meta"),
    ):
        with pytest.raises(exception) as caught:
            gaussian_symbols(*arguments)
        assert str(caught.value) == f"gaussian_symbols/{message}"


def test_wrong_tables_are_named():
    y = torch.ones(2, 3)
    for options, exception, token in (
        ({"scales": "abc"}, TypeError, "scales: must be a list"),
        ({"scales": [2.0, 1.0]}, ValueError, "scales: must be positive"),
        ({"rule": "lower"}, ValueError, "rule: must be one of"),
    ):
        with pytest.raises(exception, match=f"^gaussian_symbols/{token}"):
            gaussian_symbols(y, y, **options)


@pytest.mark.parametrize("scales", [(0.0, 256.0, 64), (2.0, 1.0, 64), (0.11, 256.0, 1), (0.11, 256.0, 70), (0.11, math.inf, 64)])
def test_native_code_refuses_tables_too_close(scales):
    y = torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="gaussian_symbols: "):
        torch.ops.dkic.gaussian_symbols(y, y, None, *scales)


def test_opcheck_and_compile():
    tensors = LikelihoodCase("", (2, 3, 4, 5)).tensors()
    torch.library.opcheck(torch.ops.dkic.gaussian_symbols.default, (*tensors, 0.11, 256.0, 64))
    compiled = torch.compile(gaussian_symbols, fullgraph=True, dynamic=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*tensors), gaussian_symbols(*tensors)))
