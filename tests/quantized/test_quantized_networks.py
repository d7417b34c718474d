"""Quantized networks: the same result on every backend, and the bounds of exact arithmetic."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized.quantized_models import calibrated, checksum, converted, decisions, latents, same, trainable
from torch import Tensor, nn

from dkic.entropy.tables import gaussian_tables
from dkic.errors import DkicError
from dkic.models.weights_file import load_weights, save_weights
from dkic.ops import backends, ldcn, quantized_conv2d, reference
from dkic.ops.requantize import requantize
from dkic.quantized import (
    ACTIVATION_MAX,
    SUM_BOUND,
    ActivationScale,
    QuantizedConv2d,
    calibrate,
    conv2d,
    convert,
    load,
    prepare,
)


@pytest.fixture(scope="module")
def model():
    return converted()


@pytest.fixture(scope="module")
def expected(model):
    return decisions(model, *latents(1))


def test_means_and_indexes_are_integers_and_not_trivial(expected):
    for mean, index in expected:
        assert torch.equal(mean * 64, (mean * 64).round()) and torch.equal(index, index.round())
        assert mean.std() > 0 and 0 <= index.min() < index.max() <= 63


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads_gives_the_same(model, expected, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(decisions(model, *latents(1)), expected)
    finally:
        torch.set_num_threads(before)


def test_any_memory_format_gives_the_same(model, expected):
    for layout in (torch.channels_last, torch.contiguous_format):
        other = copy.deepcopy(model).to(memory_format=layout)
        assert same(decisions(other, *(t.contiguous(memory_format=layout) for t in latents(1))), expected)
    strided = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in latents(1)]
    assert same(decisions(model, *strided), expected)


def test_float64_gives_the_same(model, expected):
    assert same(decisions(model, *(t.double() for t in latents(1))), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_input_is_computed_in_float32(model, dtype):
    halves = [t.to(dtype) for t in latents(1)]
    assert same(decisions(model, *halves), decisions(model, *(t.float() for t in halves)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_conversion_to_a_dtype_changes_no_integer(model, expected, dtype):
    other = copy.deepcopy(model).to(dtype)
    assert same(decisions(other, *latents(1)), expected)
    assert same(decisions(other.float(), *latents(1)), expected)


@pytest.mark.parametrize("when", ["float", "prepared"])
def test_scales_are_float32_in_every_state(when):
    scale = ActivationScale(4)
    layer = QuantizedConv2d(4, 4, 1, inputs=[scale], outputs=ActivationScale(4, 1 / 3), relu=True, negative_slope=0.1)
    network = nn.ModuleList([scale, layer])
    scale.scale.fill_(1 / 3)
    if when == "prepared":
        prepare(network)
    x = torch.arange(4.0).view(1, 4, 1, 1)
    network.half().float()
    assert scale.scale == torch.tensor([1 / 3]) and layer.slope == torch.tensor([0.1])
    assert layer.scales.output.scale == torch.tensor([1 / 3])
    network.double()
    layer(x.double() if when == "float" else x)


def test_weights_loaded_into_a_converted_layer_are_used():
    a, b = (
        QuantizedConv2d(4, 4, 3, padding=1, inputs=[ActivationScale(4, 1.0)], outputs=ActivationScale(4, 1.0)) for _ in range(2)
    )
    x = torch.arange(64.0).view(1, 4, 4, 4)
    for layer in (a, b):
        convert(layer)
        layer(x)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))
    with torch.no_grad():
        assert torch.equal(a(x.double()), b(x.double()).to(torch.float64))


def test_without_onednn_gives_the_same(model, expected):
    with torch.backends.mkldnn.flags(enabled=False):
        assert same(decisions(model, *latents(1)), expected)


def test_a_batch_gives_the_same(model, expected):
    z_hat, y = (torch.cat([t, u, t, u]) for t, u in zip(latents(1), latents(1, seed=9), strict=True))
    assert same([(mean[2:3], index[2:3]) for mean, index in decisions(model, z_hat, y)], expected)


def test_the_native_op_is_called(model, monkeypatch):
    native, calls = quantized_conv2d.quantized_conv2d, []
    monkeypatch.setattr(quantized_conv2d, "quantized_conv2d", lambda *arguments: calls.append(1) or native(*arguments))
    decisions(model, *latents(1))
    assert len(calls) > 20


def test_autocast_gives_the_same(model, expected):
    with torch.autocast("cpu", torch.bfloat16):
        assert same(decisions(model, *latents(1)), expected)


def test_compiled_networks_give_the_same(model, expected):
    other = copy.deepcopy(model)
    other.h_s = torch.compile(other.h_s)
    other.context.features = nn.ModuleList(torch.compile(f) for f in other.context.features)
    assert same(decisions(other, *latents(1)), expected)


def truncated(bits: int):
    """A convolution whose operands keep as many bits of their mantissas, and no more."""

    def cut(t: Tensor) -> Tensor:
        return (t.contiguous().view(torch.int32) & -(1 << (23 - bits))).view(torch.float32)

    return lambda a, weight, *rest: plain(cut(a), cut(weight), *rest)


def plain(a, weight, stride, padding, groups):
    return F.conv2d(a, weight, None, stride, padding, groups=groups)


def shuffled(a, weight, stride, padding, groups):
    """Sums its terms one after the other, in random order."""
    k = weight.shape[-1]
    a = F.pad(a, (padding,) * 4)
    terms = [(c, i, j) for c in range(weight.shape[1]) for i in range(k) for j in range(k)]
    total = 0
    for at in torch.randperm(len(terms)).tolist():
        c, i, j = terms[at]
        height, width = ((side - k) // stride + 1 for side in a.shape[2:])
        part = a[:, :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        part = part if groups > 1 else part[:, c : c + 1]
        total = total + part * weight[:, c, i, j].view(-1, 1, 1)
    return total


def noisy(a, weight, *rest):
    """Errs by anything below 1/2."""
    total = ORIGINAL(a, weight, *rest)
    return total.double() + (torch.rand(total.shape, dtype=torch.float64) - 0.5) * 0.98


ORIGINAL = conv2d.integer_convolution


@pytest.fixture
def by_products(monkeypatch):
    """Products of float matrices, as on a GPU: none of the native code that the CPU has for a convolution."""
    monkeypatch.setattr(quantized_conv2d, "runs_on", lambda x: False)


@pytest.mark.parametrize(
    "convolution",
    [ORIGINAL, plain, truncated(10), truncated(7), shuffled, noisy],
    ids=["products", "conv2d", "tf32", "bf16", "shuffled", "noisy"],
)
def test_any_convolution_algorithm_gives_the_same(model, expected, convolution, by_products, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return convolution(*arguments)

    monkeypatch.setattr(conv2d, "integer_convolution", counted)
    assert same(decisions(model, *latents(1)), expected)
    assert len(calls) > 20


@pytest.mark.cuda
@pytest.mark.skipif(backends.find_gpu() is not None, reason=backends.find_gpu() or "")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("how", ["products", "conv2d"])
@pytest.mark.parametrize("tf32", [False, True], ids=["", "TF32"])
def test_a_gpu_gives_the_same(model, expected, tf32, how, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", tf32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    if how == "conv2d":
        monkeypatch.setattr(conv2d, "integer_convolution", plain)
    other = copy.deepcopy(model).cuda()
    seen = decisions(other, *(t.to("cuda", dtype) for t in latents(1)))
    assert same([(mean.cpu(), index.cpu()) for mean, index in seen], expected)
    with torch.autocast("cuda", torch.bfloat16):
        seen = decisions(other, *(t.to("cuda", dtype) for t in latents(1)))
    assert same([(mean.cpu(), index.cpu()) for mean, index in seen], expected)


def test_errors_above_one_half_change_the_result(model, expected, by_products, monkeypatch):
    """The tests above can fail."""
    monkeypatch.setattr(conv2d, "integer_convolution", lambda *a: ORIGINAL(*a) + 0.7)
    assert not same(decisions(model, *latents(1)), expected)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exact") / "small.safetensors"
    save_weights(path, model, 1, {}, gaussian_tables().concat(model.prior.tables()))
    return path


def test_a_weights_file_contains_all_integers(file, expected):
    assert same(decisions(load_weights(file).model, *latents(1)), expected)


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "default", "DKIC_CPU_CAPABILITY": "default"},
        {"ATEN_CPU_CAPABILITY": "avx2", "DKIC_CPU_CAPABILITY": "avx2"},
        {"ATEN_CPU_CAPABILITY": "avx512"},
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "3"},
    ],
    ids=lambda environment: " ".join(environment.values()),
)
def test_any_instruction_set_gives_the_same(file, expected, environment):
    code = """if True:
        import sys
        from quantized.quantized_models import checksum, decisions, latents
        from dkic.models.weights_file import load_weights
        print(checksum(decisions(load_weights(sys.argv[1]).model, *latents(1))))
    """
    tests = os.path.dirname(os.path.dirname(__file__))
    run = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=tests, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == checksum(expected)


def test_prepared_and_converted_networks_agree():
    model = trainable(3)
    before = decisions(model, *latents(2))
    convert(model)
    assert same(decisions(model, *latents(2)), before)


def test_every_parameter_of_the_quantized_networks_gets_a_gradient():
    model = trainable(4)
    z_hat, y = latents(2)
    out = model.latent_bits(y.clamp(-30, 30), z_hat.clamp(-30, 30), torch.Generator().manual_seed(0))
    out.bits.sum().backward()
    for part in (model.h_s, model.context):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("change", [prepare, convert, lambda layer: load(layer, layer.state_dict())])
def test_a_converted_network_cannot_change_its_state(change):
    scale = ActivationScale(1, 1.0)
    layer = QuantizedConv2d(1, 1, 1, inputs=[scale], outputs=scale)
    convert(layer)
    with pytest.raises(DkicError, match="converted"):
        change(layer)
    assert layer.converted


def test_calibration_that_fails_sets_no_scale():
    scale = ActivationScale(3)
    with pytest.raises(KeyboardInterrupt), calibrate(scale):
        scale.observe(torch.ones(1, 3))
        raise KeyboardInterrupt
    assert scale.scale.item() == 0
    scale.observe(torch.full((1, 3), 100.0))  # not recorded
    with calibrate(scale):
        scale.observe(torch.ones(1, 3))
    assert scale.scale.item() == pytest.approx(1.5 / ACTIVATION_MAX)


def test_calibrated_scales_cost_little_rate():
    """Compared with the float network."""
    model = calibrated(5)
    z_hat, y = latents(4)
    z_hat, y = z_hat.clamp(-9, 9), y.clamp(-12, 12)
    with torch.no_grad():
        real = model.latent_bits(y, z_hat).quantized_bits.sum()
        prepare(model)
        quantized = model.latent_bits(y, z_hat).quantized_bits.sum()
    assert quantized / real == pytest.approx(1, abs=0.03) and quantized != real


# ---- Bounds ----


def layer(weight: Tensor, bias: Tensor | None = None, groups: int = 1, stride: int = 1) -> QuantizedConv2d:
    """Of integers, multipliers small enough that nothing is clamped."""
    out, channels, k, _ = weight.shape
    scales = {"inputs": [ActivationScale(channels * groups, 1.0)], "outputs": ActivationScale(out, 1.0)}
    made = QuantizedConv2d(channels * groups, out, k, stride, k // 2, groups=groups, **scales)
    bias = torch.zeros(out) if bias is None else bias
    integers = {"weight": weight.to(torch.int8), "bias": bias.to(torch.int32)}
    load(made, integers | {"multiplier": torch.full((out,), ACTIVATION_MAX * 2.0**-31)})
    return made


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_sums_at_the_bound_are_exact(seed, k, stride, depthwise):
    """Filters as heavy as 2^24 allows, or heavier, on the largest activations of any sign."""
    generator = torch.Generator().manual_seed(seed)
    channels = int(torch.randint(1, 700 // k + 2, (), generator=generator))
    shape = (channels, 1, k, k) if depthwise else (3, channels, k, k)
    weight = torch.randint(100, 128, shape, generator=generator)
    weight *= torch.randint(0, 2, shape, generator=generator) * 2 - 1
    a = ACTIVATION_MAX * weight[:1].sign().expand(2, -1, -1, -1) if not depthwise else ACTIVATION_MAX * weight[None, :, 0].sign()
    a = a.float() * (torch.rand(a.shape, generator=generator) < 0.98)
    bias = torch.randint(-(2**20), 2**20, (shape[0],), generator=generator)
    made = layer(weight, bias, channels if depthwise else 1, stride)
    total = F.conv2d(a.double(), weight.double(), bias.double(), stride, k // 2, groups=channels if depthwise else 1)
    by_hand = (total.float() * made.multiplier.view(-1, 1, 1)).round().clamp(-ACTIVATION_MAX, ACTIVATION_MAX)
    assert torch.equal(made(a), by_hand)
    assert torch.equal(made(a.double()).float(), by_hand)  # by products
    for part, _ in made.parts():
        assert ACTIVATION_MAX * int(made.weight[:, part].long().abs().sum((1, 2, 3)).max()) < SUM_BOUND


@pytest.mark.parametrize("native", [True, False], ids=["native", "products"])
def test_a_layer_with_large_sums_is_split(native, monkeypatch):
    weight = torch.full((2, 900, 1, 1), 127)
    made = layer(weight)
    assert len(made.parts()) == 2
    # As float32 alone this sum is 29,143,695 to within 2; the parts' is right.
    a = torch.full((1, 900, 1, 1), 255.0)
    a[:, -1] = 254
    monkeypatch.setattr(quantized_conv2d, "runs_on", lambda x: native)
    right = (torch.tensor(900 * 127 * 255 - 127).float() * made.multiplier).round().view(1, 2, 1, 1)
    assert torch.equal(made(a), right)


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.full((1, 1, 25, 25), 127), None, "weight: .* below 2\\^24, and could reach 20240625 with a bias of 0"),
        (torch.full((1, 1, 1, 1), 1), torch.tensor([-(2**24)]), "bias: must be below 2\\^24, not 16777216"),
        (torch.full((1, 1, 1, 1), 1), torch.tensor([2**24 - 255]), "below 2\\^24, .* with a bias of 16776961"),
        # In several parts, where native code would add the bias as an integer and products of matrices as a float32.
        (torch.full((1, 900, 1, 1), 127), torch.tensor([-(900 * 127 * 255) + 17]), "bias: must be below 2\\^24, not 29146483"),
        (torch.full((1, 1, 1, 1), -128), None, "weight: must be from -127 to 127"),
        (torch.full((1, 80_000, 1, 1), 127), None, "weight: .* below 2\\^31, and could reach 2590800000"),
    ],
    ids=["filter", "bias", "filter and bias", "bias of parts", "weight", "int32"],
)
def test_a_violated_bound_is_refused(weight, bias, message):
    with pytest.raises(DkicError, match=message):
        layer(weight, bias)


def test_a_layer_that_violates_a_bound_is_named():
    model = trainable()
    with torch.no_grad():
        model.context.passes[0][1].spatial.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DkicError, match=r"^context.passes.0.1.spatial: multiplier: must be finite"):
        convert(model)


@given(
    st.lists(st.integers(1 - SUM_BOUND, SUM_BOUND - 1), min_size=1, max_size=30),
    st.integers(1, 2**24),
)
@settings(deadline=None)
def test_requantize_rounds_twice_half_to_even(totals, multiplier):
    multiplier *= 2.0**-32
    t, m = torch.tensor(totals).float().view(1, 1, 1, -1), torch.tensor([multiplier])
    by_hand = np.rint(np.asarray(totals, np.float32) * np.float32(multiplier)).clip(-255, 255)
    assert requantize(t, None, m, -255, 255).flatten().tolist() == by_hand.tolist()
    assert requantize(t.int(), torch.zeros(1), m, -255, 255).flatten().tolist() == by_hand.tolist()


def test_ldcn_of_integers_is_exact():
    """With offsets of eighths and masks of 64ths, at their largest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-255, 256, (2, 8, 9, 7), generator=generator).float()
    x[0] = x[0].sign() * 255
    offset = torch.randint(-64, 65, (2, 4 * 18, 9, 7), generator=generator) / 8
    mask = torch.randint(0, 65, (2, 4 * 9, 9, 7), generator=generator).float()
    mask[0] = 64
    exact = reference.ldcn(x.double(), offset.double(), mask.double(), kernel_size=3, padding=1)
    assert torch.equal(exact * 64, (exact * 64).round()) and exact.abs().max() > 1e4
    assert torch.equal(ldcn(x, offset, mask, kernel_size=3, padding=1).double(), exact)
