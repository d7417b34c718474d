"""dkic.ops.gaussian_likelihood equals its reference, for every shape, layout, dtype and kind of quantization."""

import math

import pytest
import torch
from ops import likelihood_limits, tolerances
from ops.op_cases import LATENT, LIKELIHOOD_CASES, LikelihoodCase
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dkic.ops import gaussian_likelihood, gaussian_symbols, reference

NAMES = ("y", "scale", "mean")
MODES = ("noise", "round", "none")


def options(case: LikelihoodCase, quantize: str, dtype: torch.dtype = torch.float64) -> dict:
    return {"quantize": quantize, **({"noise": case.noise(dtype)} if quantize == "noise" else {})}


def results(call, tensors, gradients, **options) -> list[Tensor]:
    """y_hat, bits and the gradients of y, scale and mean (if present)."""
    tensors = tuple(t if t is None else t.detach().requires_grad_() for t in tensors)
    outputs = call(*tensors, **options)
    wanted = [t for t in tensors if t is not None]
    return [*(t.detach() for t in outputs), *torch.autograd.grad(outputs, wanted, gradients)]


def assert_all_close(actual: list[Tensor], expected: list[Tensor], **tolerance) -> None:
    for name, a, e in zip(("y_hat", "bits", *NAMES), actual, expected, strict=False):
        torch.testing.assert_close(a, e, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("quantize", MODES)
@pytest.mark.parametrize("case", LIKELIHOOD_CASES, ids=str)
def test_equals_reference(case, quantize, reduction):
    arguments = case.tensors(), case.gradients(reduction)
    chosen = {**options(case, quantize), "reduction": reduction}
    expected = results(reference.gaussian_likelihood, *arguments, **chosen)
    assert_all_close(results(gaussian_likelihood, *arguments, **chosen), expected, **tolerances.LIKELIHOOD)


def test_none_gives_y_itself():
    y, scale, mean = LATENT.tensors()
    assert gaussian_likelihood(y, scale, mean, quantize="none")[0] is y


def test_halves_are_rounded_to_even():
    y = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 8388609.0, -3e38, 0.49999997]])
    assert torch.equal(gaussian_likelihood(y, torch.ones_like(y), quantize="round")[0], y.round())


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_without_a_gradient_to_take_the_result_is_the_same(reduction):
    case = LikelihoodCase("", (2, 3000))
    tensors = case.tensors(torch.float32)
    with_gradient = gaussian_likelihood(*(t.requires_grad_() for t in tensors), quantize="round", reduction=reduction)
    with torch.no_grad():
        without = gaussian_likelihood(*tensors, quantize="round", reduction=reduction)
    assert all(map(torch.equal, with_gradient, without))


@pytest.mark.parametrize("wanted", ["y", "scale", "mean", "y scale", "scale mean"])
@pytest.mark.parametrize("quantize", MODES)
def test_only_the_gradients_that_are_wanted(wanted, quantize):
    tensors, gradients, chosen = LATENT.tensors(), LATENT.gradients("none"), options(LATENT, quantize)
    expected = results(gaussian_likelihood, tensors, gradients, **chosen)[2:]
    for name, t in zip(NAMES, tensors, strict=True):
        t.requires_grad_(name in wanted.split())
    y_hat, bits = gaussian_likelihood(*tensors, **chosen)
    torch.autograd.backward((y_hat, bits) if y_hat.requires_grad else bits, gradients if y_hat.requires_grad else gradients[1])
    for name, t, e in zip(NAMES, tensors, expected, strict=True):
        assert torch.equal(t.grad, e) if name in wanted.split() else t.grad is None


@pytest.mark.parametrize("quantize", ["noise", "round"])
def test_one_result_alone_has_a_gradient(quantize):
    tensors, (grad_y_hat, grad_bits) = [t.requires_grad_() for t in LATENT.tensors()], LATENT.gradients("none")
    y_hat, bits = gaussian_likelihood(*tensors, **options(LATENT, quantize))
    by_y, *others = torch.autograd.grad(y_hat, tensors, grad_y_hat, retain_graph=True, allow_unused=True)
    assert torch.equal(by_y, grad_y_hat) and others == [None, None]
    by_y, _, by_mean = torch.autograd.grad(bits, tensors, grad_bits)
    assert torch.equal(by_y, -by_mean) and by_y.any()


# ---- Layouts ----


def around(t: Tensor, memory_format: torch.memory_format) -> Tensor:
    return torch.cat([t.new_full(t.shape, 7), t, t.new_full(t.shape, 8)], 1).contiguous(memory_format=memory_format)


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def channel_slice(t: Tensor) -> Tensor:
    return around(t, torch.contiguous_format)[:, t.shape[1] : 2 * t.shape[1]]


def channels_last_slice(t: Tensor) -> Tensor:
    return around(t, torch.channels_last)[:, t.shape[1] : 2 * t.shape[1]]


def every_second(t: Tensor) -> Tensor:
    return torch.stack([t, t.new_full(t.shape, 7)], -1).flatten(3)[..., ::2]


def rows_and_columns_swapped(t: Tensor) -> Tensor:
    return t.transpose(2, 3).contiguous().transpose(2, 3)


def batch_innermost(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


LAYOUTS = [channels_last, channel_slice, channels_last_slice, every_second, rows_and_columns_swapped, batch_innermost]
WIDE = LikelihoodCase("wide", (2, 40, 9, 17))  # more than a tile along every way through it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [*NAMES, "noise", "grad_y_hat", "grad_bits", "all"])
def test_any_layout_gives_the_same(which, layout, dtype):
    bits_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    arguments = dict(zip(NAMES, WIDE.tensors(dtype), strict=True), noise=WIDE.noise(dtype))
    arguments.update(grad_y_hat=WIDE.gradients("none", dtype)[0], grad_bits=WIDE.gradients("none", bits_dtype)[1])

    def outcome() -> list[Tensor]:
        tensors, gradients = list(arguments.values())[:3], list(arguments.values())[4:]
        return results(gaussian_likelihood, tensors, gradients, quantize="noise", noise=arguments["noise"])

    expected = outcome()
    for name, before in arguments.items():
        if which in (name, "all"):
            arguments[name] = layout(before)
            assert torch.equal(arguments[name], before) and arguments[name].stride() != before.stride()
    assert all(map(torch.equal, outcome(), expected))


@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("axes", [(0,), (1,), (2, 3), (0, 1, 2, 3)])
def test_expanded_arguments(which, axes):
    arguments = dict(zip(NAMES, LATENT.tensors(), strict=True))
    one = arguments[which][tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))]
    outcomes = []
    for arguments[which] in (one.expand(LATENT.shape), one.expand(LATENT.shape).contiguous()):
        outcomes.append(results(gaussian_likelihood, arguments.values(), LATENT.gradients("none"), quantize="round"))
    assert all(map(torch.equal, *outcomes))


def test_more_axes_than_a_traversal_supports():
    case = LikelihoodCase("", (2, 3, 2, 4, 2, 3, 2))
    y, scale, mean = case.tensors()
    turned = [t.permute(6, 2, 4, 0, 5, 1, 3).contiguous().permute(3, 5, 1, 6, 2, 4, 0) for t in (y, scale)]
    outcomes = [
        results(gaussian_likelihood, tensors, case.gradients("none"), quantize="round")
        for tensors in ((y, scale, mean), (*turned, mean))
    ]
    assert all(map(torch.equal, *outcomes))


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (2, 3, 4, 5, 2)])
def test_results_have_the_layout_of_y(shape):
    case = LikelihoodCase("", shape)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    for memory_format in (torch.contiguous_format, last):
        tensors = [t.contiguous(memory_format=memory_format) for t in case.tensors()]
        for t in results(gaussian_likelihood, tensors, case.gradients("none"), quantize="round"):
            assert t.is_contiguous(memory_format=memory_format)


def test_sums_in_another_layout():
    """Only the order of the float64 additions differs."""
    tensors = WIDE.tensors(torch.float32)
    one, other = (
        gaussian_likelihood(*map(layout, tensors), quantize="round", reduction="sum")[1]
        for layout in (channels_last, channel_slice)
    )
    torch.testing.assert_close(one, other, rtol=2.0**-23, atol=0)


def test_sums_are_of_float64():
    y = torch.full((1, 2**22), 0.0)
    one = gaussian_likelihood(y[:, :1], torch.ones(1, 1), quantize="none")[1]
    total = gaussian_likelihood(y, torch.ones_like(y), quantize="none", reduction="sum")[1]
    assert total.item() == one.item() * 2**22


# ---- Dtypes ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quantize", MODES)
def test_halves_are_computed_in_float32(dtype, quantize):
    """Bit for bit the float32 result for the same numbers, with y_hat and gradients rounded."""
    case = LikelihoodCase("", (2, 5, 9, 11))
    tensors, (grad_y_hat, grad_bits) = case.tensors(dtype), case.gradients("none", torch.float32)
    chosen = options(case, quantize, dtype)
    actual = results(gaussian_likelihood, tensors, (grad_y_hat.to(dtype), grad_bits), **chosen)
    chosen = {name: value.float() if isinstance(value, Tensor) else value for name, value in chosen.items()}
    gradients = (grad_y_hat.to(dtype).float(), grad_bits)
    expected = results(gaussian_likelihood, [t.float() for t in tensors], gradients, **chosen)
    assert actual[1].dtype == torch.float32 and all(t.dtype == dtype for t in (actual[0], *actual[2:]))
    if quantize == "none":  # y_hat's gradient is added outside, in the half type
        actual, expected = [*actual[:2], *actual[3:]], [*expected[:2], *expected[3:]]
    assert all(torch.equal(a, e.to(a.dtype)) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.float32, torch.float16),
        (torch.float32, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.bfloat16),
    ],
    ids=str,
)
def test_mixed_dtypes(dtypes):
    tensors = [t.to(dtype) for t, dtype in zip(LATENT.tensors(), dtypes, strict=True)]
    computed = torch.float64 if torch.float64 in dtypes else torch.float32
    gradients = LATENT.gradients("none", computed)
    grad_y_hat = gradients[0].to(dtypes[0])
    actual = results(gaussian_likelihood, tensors, (grad_y_hat, gradients[1]), quantize="round")
    assert [t.dtype for t in actual] == [dtypes[0], computed, *dtypes]
    same = [t.to(computed) for t in tensors]
    expected = results(gaussian_likelihood, same, (grad_y_hat.to(computed), gradients[1]), quantize="round")
    assert all(torch.equal(a, e.to(a.dtype)) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [Tensor.contiguous, *LAYOUTS])
def test_scales_of_a_half_type_are_read_without_a_copy(layout, dtype):
    """Torch allocates the results, and converts only the final gradient to the half type."""
    y, scale, _ = WIDE.tensors(torch.float32)
    y, scale = y.requires_grad_(), layout(scale.to(dtype)).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU]) as forward:
        bits = gaussian_likelihood(y, scale, quantize="round")[1]
    grad_bits = torch.ones_like(bits)
    with profile(activities=[ProfilerActivity.CPU]) as backward:
        gradients = torch.autograd.grad(bits, (y, scale), grad_bits)
    assert [g.dtype for g in gradients] == [torch.float32, dtype]
    called = [[e.name for e in run.events() if e.name.startswith(("aten::", "dkic::"))] for run in (forward, backward)]
    assert set(called[0]) == {"dkic::gaussian_likelihood", "aten::empty"}
    assert called[1].count("aten::_to_copy") == called[1].count("aten::copy_") == 1
    assert not {"aten::contiguous", "aten::clone"} & set(called[1])
    assert called[1].index("dkic::gaussian_likelihood_backward") < called[1].index("aten::_to_copy")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", [1, 2], ids=["scale", "mean"])
def test_a_gradient_of_a_half_type_is_rounded_after_its_sum(which, dtype):
    """Terms of 1e-6 and less: rounded one by one to float16 they would lose most of their digits, in bfloat16 the sum."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4, 8, 64, 64, generator=generator) * 3
    scale, mean = torch.linspace(1, 4, 8).view(1, 8, 1, 1), torch.linspace(-1, 1, 8).view(1, 8, 1, 1)
    tensors = [y, scale.to(dtype) if which == 1 else scale, mean.to(dtype) if which == 2 else mean]
    exact = [t.double() for t in tensors]
    gradients = []
    for given in (tensors, exact):
        leaf = given[which].requires_grad_()
        bits = gaussian_likelihood(*given, quantize="none")[1]
        gradients.append(torch.autograd.grad((bits * 1e-6).sum(), leaf)[0])
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=2 * tolerances.HALF_SPACING[dtype], atol=1e-7)


# ---- The bound of the scale, NaN and infinity ----


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.1, 0.0, -0.0, -5.0, -math.inf])
def test_below_scale_min(scale):
    """Bits are those at scale_min; the gradient passes only if it would increase the scale, for large residuals."""
    y = torch.tensor([[0.0, 4.0]], dtype=torch.float64)
    scale_min = 0.5
    leaf = torch.full_like(y, scale, requires_grad=True)
    bits = gaussian_likelihood(y, leaf, quantize="none", scale_min=scale_min)[1]
    bound = torch.full_like(y, scale_min, requires_grad=True)
    at_bound = gaussian_likelihood(y, bound, quantize="none", scale_min=0.01)[1]
    assert torch.equal(bits, at_bound)
    (gradient,), (expected,) = (torch.autograd.grad(b.sum(), t) for b, t in ((bits, leaf), (at_bound, bound)))
    assert expected[0, 0] > 0 > expected[0, 1]
    assert gradient[0, 1] == expected[0, 1]
    assert gradient[0, 0] == (expected[0, 0] if scale == scale_min else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", [*NAMES, "noise"])
def test_nan_propagates_and_to_no_other_element(which, dtype):
    arguments = dict(zip(NAMES, LATENT.tensors(dtype), strict=True), noise=LATENT.noise(dtype))
    arguments[which][1, 2, 3, 4] = math.nan
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    gradients = torch.ones(LATENT.shape, dtype=dtype), torch.ones(LATENT.shape, dtype=computed)
    tensors = [arguments[name] for name in NAMES]
    y_hat, bits, *by = results(gaussian_likelihood, tensors, gradients, quantize="noise", noise=arguments["noise"])
    for name, t in (("y_hat", y_hat), ("bits", bits), *zip(NAMES, by, strict=True)):
        expected = torch.zeros(LATENT.shape, dtype=torch.bool)
        expected[1, 2, 3, 4] = not (name == "y_hat" and which in ("scale", "mean"))
        assert torch.equal(t.isnan(), expected), name


def bits_and_gradients(y: Tensor, scale: Tensor, quantize: str, reduction: str = "none") -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (y, scale)]
    bits = gaussian_likelihood(*leaves, quantize=quantize, reduction=reduction)[1]
    return [bits.detach(), *torch.autograd.grad(bits.sum(), leaves)]


@pytest.mark.parametrize("quantize", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_limits(dtype, quantize):
    """NaN gives NaN and infinity gives the limit, in whole vectors and next to finite elements."""
    v, scale = likelihood_limits.points(dtype)
    for repeated in (1, 64):
        tensors = [t.repeat_interleave(repeated, 1) for t in (v, scale)]
        likelihood_limits.assert_limits(*tensors, *bits_and_gradients(*tensors, quantize))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_nan_of_any_payload_comes_back_as_nan(dtype):
    nan = likelihood_limits.nans(dtype)
    for number in (0.0, 0.3, -2.0, math.inf):
        other = torch.full_like(nan, number)
        for tensors in ((nan, other.clamp_min(0.5)), (other, nan), (nan, nan)):
            assert all(t.isnan().all() for t in bits_and_gradients(*tensors, "none"))


def test_sums_of_limits():
    y, scale = torch.zeros(3, 100), torch.ones(3, 100)
    scale[0, 50], scale[1, 50], scale[2, 50:52] = math.nan, math.inf, torch.tensor([math.inf, math.nan])
    bits, by_y, by_scale = bits_and_gradients(y, scale, "none", "sum")
    assert bits[1] == math.inf and bits[[0, 2]].isnan().all()
    for t in (by_y, by_scale):
        assert torch.equal(t.isnan(), scale.isnan()) and not t[scale.isinf()].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_far_beyond_bits_are_half_the_square(dtype):
    """Up to the end of the dtype, and infinite from there on."""
    ratio = torch.logspace(15, math.log10(torch.finfo(dtype).max) - 1, 400, dtype=torch.float64).to(dtype)[None]
    for s in (0.11, 1.0, 7.0):
        scale = torch.full_like(ratio, s)
        bits, by_v, by_scale = bits_and_gradients(ratio * scale, scale, "none")
        slope = ratio / scale / math.log(2)
        for actual, expected in ((bits, ratio / math.log(4) * ratio), (by_v, slope), (by_scale, -slope * ratio)):
            torch.testing.assert_close(actual, expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_of_scales_up_to_the_dtype_s_end(dtype):
    scale = torch.logspace(3, math.log10(torch.finfo(dtype).max) - 0.01, 400, dtype=torch.float64).to(dtype)[None]
    bits, by_v, by_scale = bits_and_gradients(torch.full_like(scale, 3.0), scale, "none")
    torch.testing.assert_close(bits, scale.log2() + math.log2(2 * math.pi) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(by_scale, 1 / scale / math.log(2), rtol=2e-5, atol=1e-42)
    assert (by_v >= 0).all() and (by_v <= 3 * by_scale).all()


def test_a_residual_that_the_mean_hides():
    """The residual is not computed as y_hat - mean, which would cancel."""
    mean = torch.full((1, 4), 2.0**20)
    u = torch.tensor([[0.25, -0.25, 0.4, 0.001]])
    bits = gaussian_likelihood(mean, torch.full_like(mean, 0.3), mean, quantize="noise", noise=u)[1]
    assert torch.equal(bits, gaussian_likelihood(u, torch.full_like(mean, 0.3), quantize="none")[1])


def test_no_elements_whatever_the_strides():
    y, scale = torch.empty(0, 2, 3, 4, 5, 6, 7).permute(0, 6, 5, 4, 3, 2, 1), torch.ones(0, 7, 6, 5, 4, 3, 2)
    y = y.requires_grad_()
    y_hat, bits = gaussian_likelihood(y, scale, quantize="round")
    assert y_hat.shape == bits.shape == y.shape
    bits.sum().backward()
    assert y.grad.shape == y.shape
    symbols, index = gaussian_symbols(y.detach(), scale)
    assert symbols.shape == index.shape == y.shape
    total = gaussian_likelihood(
        torch.empty(3, 0, 2, 3, 4, 5, 6).permute(0, 6, 5, 4, 3, 2, 1),
        torch.ones(3, 6, 5, 4, 3, 2, 0),
        quantize="round",
        reduction="sum",
    )[1]
    assert torch.equal(total, torch.zeros(3))
