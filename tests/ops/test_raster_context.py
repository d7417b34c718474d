"""dkic.ops.raster_context equals PyTorch's convolutions position by position; decoder and encoder are equal bit for bit."""

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from ops.python_process import capability, python
from torch import Tensor

from dkic.errors import FormatError
from dkic.ops import gaussian_indexes
from dkic.ops.cdf_coder import cdf_decode
from dkic.ops.raster_context import GaussianTables, RasterNetwork, raster_decode, raster_encode

SHAPES = [  # batch, channels, parameters, context channels, hidden channels, height, width, kernel
    (1, 3, 5, 4, (6,), 4, 7, 5),
    (2, 24, 48, 48, (80, 64), 5, 9, 5),
    (3, 70, 10, 65, (), 3, 4, 3),
    (1, 8, 16, 16, (20,), 9, 2, 7),
    (2, 1, 1, 1, (1, 1, 1), 1, 1, 5),
    (1, 6, 12, 12, (10,), 1, 13, 1),
]


def problem(batch, channels, params, context, hidden, height, width, kernel, seed=0) -> tuple[Tensor, Tensor, RasterNetwork]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, bound: float = 1.0) -> Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)

    widths = [params + context, *hidden, 2 * channels]
    layers = list(zip(widths, widths[1:], strict=False))
    network = RasterNetwork(
        uniform(context, channels, kernel, kernel, bound=1 / math.sqrt(channels * kernel**2)),
        uniform(context),
        [uniform(o, i, 1, 1, bound=1 / math.sqrt(i)) for i, o in layers],
        [uniform(o, bound=2.0) for _, o in layers],
        [0.01 if i % 2 else 0.0 for i in range(len(layers) - 1)],
    )
    return 8 * uniform(batch, channels, height, width), uniform(batch, params, height, width), network


def tables() -> GaussianTables:
    scales = torch.exp(torch.linspace(math.log(0.11), math.log(20), 30))
    rows, length = [], 12
    for scale in scales.tolist():
        edges = torch.erf((torch.arange(length) - length / 2) / (scale * math.sqrt(2)))
        cdf = ((edges + 1) / 2 * 65000).round().int() + torch.arange(length)
        rows.append(torch.cat([torch.zeros(1).int(), (cdf[1:] - cdf[0]).int(), torch.tensor([65536]).int()]))
    return GaussianTables(scales, 0.11, torch.stack(rows), torch.full((30,), length + 1), torch.full((30,), -length // 2 + 1))


def by_convolutions(y: Tensor, params: Tensor, network: RasterNetwork) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y_hat, symbols, scales, and how far from a decision, in float64 and position by position."""
    y, params = y.double(), params.double()
    kernel = network.context_weight.shape[-1]
    mask = torch.ones(kernel * kernel, dtype=torch.float64)
    mask[kernel * kernel // 2 :] = 0
    weight = network.context_weight.double() * mask.view(kernel, kernel)
    y_hat, symbols, scales = torch.zeros_like(y), torch.zeros(y.shape, dtype=torch.int32), torch.zeros_like(y)
    for h in range(y.shape[2]):
        for w in range(y.shape[3]):
            context = F.conv2d(y_hat, weight, network.context_bias.double(), padding=kernel // 2)[:, :, h : h + 1, w : w + 1]
            value = torch.cat([params[:, :, h : h + 1, w : w + 1], context], 1)
            for i, (layer, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
                value = F.conv2d(value, layer.double(), bias.double())
                if i < len(network.slopes):
                    value = F.leaky_relu(value, network.slopes[i])
            scale, mean = value[:, :, 0, 0].chunk(2, 1)
            symbol = (y[:, :, h, w] - mean).round()
            symbols[:, :, h, w], y_hat[:, :, h, w], scales[:, :, h, w] = symbol.int(), symbol + mean, scale
    return y_hat, symbols, scales, (y - y_hat)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_convolutions_position_by_position(shape):
    y, params, network = problem(*shape)
    expected, symbols, scales, rest = by_convolutions(y, params, network)
    assert rest.abs().max() < 0.49999  # no symbol is a matter of float32's rounding
    y_hat, strings = raster_encode(y, params, network, tables())
    assert y_hat.is_contiguous()
    torch.testing.assert_close(y_hat.double(), expected, rtol=1e-5, atol=1e-4)
    indexes = gaussian_indexes(scales.clamp_min(0.11), tables().scales, "next_larger")
    in_order = cdf_decode(strings, indexes.permute(0, 2, 3, 1), *tables()[2:])
    assert torch.equal(in_order.permute(0, 3, 1, 2), symbols)
    assert torch.equal(raster_decode(strings, params, network, tables()), y_hat)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_threads_nor_batches_change_a_stream(threads):
    y, params, network = problem(3, 40, 30, 50, (70, 66), 6, 11, 5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y_hat, strings = raster_encode(y, params, network, tables())
        assert torch.equal(raster_decode(strings, params, network, tables()), y_hat)
    finally:
        torch.set_num_threads(before)
    for n in range(3):
        one, string = raster_encode(y[n : n + 1], params[n : n + 1], network, tables())
        assert string == strings[n : n + 1] and torch.equal(one, y_hat[n : n + 1])
        assert torch.equal(raster_decode(string, params[n : n + 1], network, tables()), one)


def digest() -> str:
    y_hat, strings = raster_encode(*problem(2, 40, 30, 50, (70, 66), 6, 11, 5), tables())
    return hashlib.sha256(b"".join(strings) + y_hat.numpy().tobytes()).hexdigest()


def test_avx2_and_avx512_code_the_same_stream():
    if capability() != "avx512":
        pytest.skip("this CPU has no avx512")
    run = python("-c", "from ops.test_raster_context import digest; print(digest())", DKIC_CPU_CAPABILITY="avx2")
    assert run.stdout.strip() == digest(), run.stderr


def test_layouts_do_not_matter():
    y, params, network = problem(2, 24, 48, 48, (80, 64), 5, 9, 5)
    y_hat, strings = raster_encode(y, params, network, tables())
    spread = [t.to(memory_format=torch.channels_last) for t in (y, params)]
    sliced = [torch.cat([t, t], 1)[:, : t.shape[1]] for t in (y, params)]
    for others in (spread, sliced):
        again = raster_encode(*others, network, tables())
        assert again[1] == strings and torch.equal(again[0], y_hat)


def test_positions_that_are_not_decoded_yet_have_no_influence():
    y, params, network = problem(1, 3, 5, 4, (6,), 4, 7, 5)
    masked = network.context_weight.clone()
    masked.flatten(2)[..., 12:] = math.nan
    y_hat, strings = raster_encode(y, params, network, tables())
    again, others = raster_encode(y, params, network._replace(context_weight=masked), tables())
    assert others == strings and torch.equal(again, y_hat)


@pytest.mark.parametrize("size", [(0, 3, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0)], ids=str)
def test_empty(size):
    _, _, network = problem(1, 3, 5, 4, (6,), 4, 7, 5)
    params = torch.zeros(size[0], 5, *size[2:])
    y_hat, strings = raster_encode(torch.zeros(size), params, network, tables())
    assert y_hat.shape == size and len(strings) == size[0]
    assert raster_decode(strings, params, network, tables()).shape == size


def test_damaged_streams_are_refused():
    y, params, network = problem(3, 3, 5, 4, (6,), 4, 7, 5)
    strings = raster_encode(y, params, network, tables())[1]
    for damaged in (strings[1][:-4], strings[1] + bytes(4), b"", bytes(8)):
        with pytest.raises(FormatError, match="stream 1"):
            raster_decode([strings[0], damaged, strings[2]], params, network, tables())
    with pytest.raises(FormatError):
        raster_decode(strings, params + 1, network, tables())


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e9])
def test_symbols_beyond_int32(value):
    y, params, network = problem(1, 3, 5, 4, (6,), 4, 7, 5)
    y[0, 1, 2, 3] = value
    with pytest.raises(RuntimeError, match="int32"):
        raster_encode(y, params, network, tables())


def wrong(**changes):
    y, params, network = problem(1, 3, 5, 4, (6,), 4, 7, 5)
    good = {"y": y, "params": params, **network._asdict(), **tables()._asdict()}
    values = {**good, **{name: change(good[name]) for name, change in changes.items()}}
    return (
        values["y"],
        values["params"],
        RasterNetwork(*(values[name] for name in RasterNetwork._fields)),
        GaussianTables(*(values[name] for name in GaussianTables._fields)),
    )


@pytest.mark.parametrize(
    ("changes", "exception"),
    [
        ({"y": lambda t: t.double()}, TypeError),
        ({"y": lambda t: t[0]}, ValueError),
        ({"y": lambda t: t[..., :6]}, ValueError),
        ({"y": lambda t: t[:, :2]}, RuntimeError),
        ({"params": lambda t: None}, TypeError),
        ({"params": lambda t: t[:, :4]}, RuntimeError),
        ({"context_weight": lambda t: t[..., :4]}, RuntimeError),
        ({"context_weight": lambda t: t[:, :2]}, RuntimeError),
        ({"context_weight": lambda t: t[:3]}, RuntimeError),
        ({"context_weight": lambda t: t.double()}, RuntimeError),
        ({"context_weight": lambda t: t.flatten()}, RuntimeError),
        ({"context_bias": lambda t: t[:3]}, RuntimeError),
        ({"weights": lambda t: t[:1]}, RuntimeError),
        ({"weights": lambda t: [*t[:1], t[1][:5]]}, RuntimeError),
        ({"weights": lambda t: []}, RuntimeError),
        ({"weights": lambda t: [t[0][:, :, 0, 0], t[1]]}, RuntimeError),
        ({"biases": lambda t: [t[0], t[1][:5]]}, RuntimeError),
        ({"slopes": lambda t: []}, RuntimeError),
        ({"scales": lambda t: t.flip(0)}, ValueError),
        ({"cdf_length": lambda t: t[:3]}, ValueError),
        ({"cdf": lambda t: t + 1}, RuntimeError),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v.__name__,
)
def test_wrong_arguments(changes, exception):
    with pytest.raises(exception):
        raster_encode(*wrong(**changes))


def test_opcheck():
    y, params, network = problem(2, 3, 5, 4, (6,), 4, 7, 5)
    gaussian = tables()
    edges = gaussian.scales.tolist()[:-1]
    integers = [t.int() for t in gaussian[2:]]
    arguments = (params, *network[:2], network.weights, network.biases, network.slopes, edges, 0.11, *integers)
    _, data, size = torch.ops.dkic.raster_encode(y, *arguments)
    torch.library.opcheck(torch.ops.dkic.raster_encode.default, (y, *arguments))
    torch.library.opcheck(torch.ops.dkic.raster_decode.default, (data, size, *arguments))


def test_a_latent_without_parameters_is_refused():
    """Nothing would bound its size."""
    y, params, network = problem(1, 4, 3, 4, (5,), 4, 4, 3)
    with pytest.raises(RuntimeError, match="at least one channel"):
        raster_encode(y, params[:, :0], network, tables())
