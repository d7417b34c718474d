"""The Gaussian likelihood's Triton kernels in Triton's interpreter; test_gaussian_likelihood_triton.py runs this file.

The interpreter does not contract products and sums to an fma, as a GPU may. So accuracy is also measured with all of them fused.
"""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from host_reads import NoHostReads
from ops import interpreter, likelihood_limits, tolerances  # noqa: F401  (interpreter: faster)
from ops.layouts import LAYOUTS
from ops.op_cases import LATENT, LIKELIHOOD_CASES, LikelihoodCase
from ops.test_gaussian_likelihood_precision import TOLERANCE, points
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from dkic.ops import reference
from dkic.ops.triton.gaussian_likelihood import backward, draw, forward
from dkic.ops.triton.traversal import Traversal, offset_of, place

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SEED = torch.tensor(-1234567890123456789)
# A sample needs at least one program, which takes milliseconds in the interpreter.
CASES = [case for case in LIKELIHOOD_CASES if case.shape != (70,)] + [LikelihoodCase("samples of one number", (5,))]
MODES = ("drawn", "given", "round", "none")


def arguments(case, mode, tensors=None, *, dtype=torch.float32, sum=False, derivatives=True) -> tuple:
    """Arguments of dkic::gaussian_likelihood."""
    y, scale, mean = case.tensors(dtype) if tensors is None else tensors
    noise, seed = case.noise(dtype) if mode == "given" else None, SEED if mode == "drawn" else None
    return y, scale, mean, noise, seed, mode == "round", 0.11, sum, derivatives, derivatives


def assert_as_on_the_cpu(args: tuple, tolerance: float) -> None:
    """Equal shapes, dtypes, layouts and quantized values; bits and derivatives within twice the error bound of each."""
    scale = args[1].double().clamp_min(0.11)
    actual, expected = forward(*args), torch.ops.dkic.gaussian_likelihood(*args)
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype) and (a.stride() == e.stride() or not a.numel())
    if actual[0].dtype == torch.bfloat16:  # the interpreter truncates, a GPU rounds; see test_triton_compile.py
        torch.testing.assert_close(actual[0], expected[0], rtol=2.0**-7, atol=0)
    else:
        assert torch.equal(actual[0], expected[0])
    floor = (0.0, 1 / scale, 1 / scale)
    for a, e, f in zip(actual[1:], expected[1:], floor, strict=True):
        if a.numel():
            a, e = a.double(), e.double()
            assert ((a - e).abs() <= 2 * tolerance * (e.abs() + f)).all()


@pytest.mark.parametrize(("mode", "sum"), [("drawn", False), ("given", True), ("round", True), ("none", False)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_cpu(case, mode, sum):
    assert_as_on_the_cpu(arguments(case, mode, sum=sum), TOLERANCE[torch.float32])


@pytest.mark.parametrize("mode", ["drawn", "round"])
@pytest.mark.parametrize("others", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_pair_of_dtypes(dtype, others, mode):
    y, scale, mean = LATENT.tensors()
    args = arguments(LATENT, mode, (y.to(dtype), scale.to(others), mean.to(others)), dtype=others)
    assert_as_on_the_cpu(args, TOLERANCE[torch.float64 if torch.float64 in (dtype, others) else torch.float32])


@pytest.mark.parametrize("mode", ("drawn", "round"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_read_in_place(layout, mode, monkeypatch):
    case = LikelihoodCase("", (2, 6, 9, 17))
    tensors = [layout(t) for t in case.tensors(torch.float32)]
    monkeypatch.setattr(Tensor, "contiguous", None, raising=False)
    assert_as_on_the_cpu(arguments(case, mode, tensors), TOLERANCE[torch.float32])
    together = forward(*arguments(case, mode, tensors))
    for a, b in zip(together, forward(*arguments(case, mode)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sum", [False, True])
@pytest.mark.parametrize(
    ("shape", "fours"), [((2, 150, 4, 3), True), ((2, 5, 2, 3, 4), True), ((2, 6, 4, 4), True), ((2, 6, 3, 5), False)], ids=str
)
def test_noise_in_channels_last(shape, fours, sum, monkeypatch):
    """Four positions of a channel share a Philox block. y is contiguous, scale and mean are slices of channels."""
    found = []
    monkeypatch.setattr(Traversal, "fours", lambda self, of=Traversal.fours: found.append(of(self)) or found[-1])
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    y, *others = LikelihoodCase("", shape).tensors(torch.float32)
    tensors = [y.contiguous(memory_format=layout)]
    tensors += [torch.cat([t, t], 1).contiguous(memory_format=layout)[:, 1 : t.shape[1] + 1] for t in others]
    assert_as_on_the_cpu(arguments(None, "drawn", tensors, sum=sum), TOLERANCE[torch.float32])
    assert [one is not None for one in found] == [fours]


def test_axes_that_never_merge():
    case = LikelihoodCase("", (2, 3, 4, 2, 5))
    around = [torch.cat([t, t], -1).transpose(1, 3).contiguous().transpose(1, 3)[..., :5] for t in case.tensors(torch.float32)]
    assert_as_on_the_cpu(arguments(case, "drawn", around), TOLERANCE[torch.float32])
    case = LikelihoodCase("", (2, 3, 4, 2, 5, 2, 3))  # more axes than a traversal supports: copied
    around = [t.permute(6, 5, 4, 3, 2, 1, 0).contiguous().permute(6, 5, 4, 3, 2, 1, 0) for t in case.tensors(torch.float32)]
    assert_as_on_the_cpu(arguments(case, "drawn", around), TOLERANCE[torch.float32])


@pytest.mark.parametrize("sum", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_the_reference(mode, sum):
    tensors = [t.requires_grad_() for t in LATENT.tensors()]
    grad_y_hat, grad_bits = LATENT.gradients("sum" if sum else "none")
    noise = {"drawn": reference.gaussian_noise(LATENT.shape, SEED.item()), "given": LATENT.noise()}.get(mode)
    quantize = mode if noise is None else "noise"
    outputs = reference.gaussian_likelihood(*tensors, quantize=quantize, noise=noise, reduction="sum" if sum else "none")
    expected = torch.autograd.grad(outputs, tensors, (grad_y_hat, grad_bits))
    args = arguments(LATENT, mode, [t.detach() for t in tensors], dtype=torch.float64, sum=sum)
    _, bits, by_v, by_scale = forward(*args)
    torch.testing.assert_close(bits, outputs[1].detach(), **tolerances.LIKELIHOOD)
    gradients = backward(grad_y_hat, grad_bits, by_v, by_scale, args[1], 0.11, True, True, True)
    for a, e in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, e, **tolerances.LIKELIHOOD)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_backward_equals_the_cpu(layout, dtype, wanted):
    layout = layout or (lambda t: t)
    y, scale, mean = (layout(t) for t in LATENT.tensors(dtype))
    grad_y_hat, grad_bits = LATENT.gradients("none", dtype)
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    _, _, by_v, by_scale = torch.ops.dkic.gaussian_likelihood(y, scale, mean, None, SEED, False, 0.11, False, True, True)
    for grads in ((layout(grad_y_hat), grad_bits), (None, layout(grad_bits)), (grad_y_hat, grad_bits[:, 0, 0, 0].clone())):
        args = grads[0], grads[1].to(computed), by_v, by_scale, scale, 0.11, *wanted
        for a, e in zip(backward(*args), torch.ops.dkic.gaussian_likelihood_backward(*args), strict=True):
            assert a.stride() == e.stride() and a.dtype == e.dtype
            torch.testing.assert_close(a, e)


@pytest.mark.parametrize("likelihood_min", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_likelihoods_equal_the_cpu(dtype, likelihood_min):
    tolerance = {torch.float32: {"rtol": 2e-5, "atol": 1e-7}, torch.float64: {"rtol": 1e-11, "atol": 1e-15}}[dtype]
    args = (*arguments(LATENT, "given", dtype=dtype), True, likelihood_min)
    actual, expected = forward(*args), torch.ops.dkic.gaussian_likelihood(*args)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **tolerance)
    grads = LATENT.gradients("none", dtype)
    args = (*grads, *expected[2:], args[1], 0.11, True, True, True, expected[1], likelihood_min)
    for a, e in zip(backward(*args), torch.ops.dkic.gaussian_likelihood_backward(*args), strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("seed", [0, 12345678901234567, -(2**63)])
@pytest.mark.parametrize("shape", [(1,), (2, 63), (3, 65), (1, 1025), (2, 3, 11, 7), (0, 4)], ids=str)
def test_noise_is_the_reference_s_to_the_bit(shape, seed):
    for dtype in (torch.float32, torch.float64):
        zeros, ones = torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)
        noise = forward(zeros, ones, None, None, torch.tensor(seed), False, 0.11, False, False, False)[0]
        assert noise.dtype == dtype and torch.equal(noise.double(), reference.gaussian_noise(shape, seed))


@triton.jit
def _draw(seed, n, e, to):
    at = tl.arange(0, 16)
    tl.store(to + at, draw(seed, tl.load(n + at), tl.load(e + at)))


def test_noise_beyond_32_bits():
    """The upper words of the counters, which need larger tensors than the tests have."""
    n, e = torch.arange(16) * 2**33 + 5, torch.arange(16) * (2**36 + 17) + 3
    to = torch.empty(16, dtype=torch.int32)
    _draw[(1,)](SEED, n, e, to)
    block, mask = e // 4, 0xFFFFFFFF
    words = reference.philox(torch.stack([block & mask, block >> 32, n & mask, n >> 32], -1), SEED.item())
    assert torch.equal(to.long(), (words.gather(1, (e % 4)[:, None])[:, 0] >> 8) - 2**23)


@triton.jit
def _place(elements, chunks, to, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    n, element, inside = place(elements, chunks, BLOCK, WIDE)
    tl.store(to + n * elements + element, n * 100 + element, mask=inside)


@pytest.mark.parametrize("wide", [False, True])
def test_every_element_has_its_place(wide):
    to = torch.full((3 * 9 + 4,), -1)
    _place[(3 * 3,)](9, 3, to, BLOCK=4, WIDE=wide)
    assert to.tolist() == [n * 100 + e for n in range(3) for e in range(9)] + [-1] * 4


@triton.jit
def _offsets(size, stride, to):
    at = tl.arange(0, 16)
    tl.store(to + at, offset_of(tl.full((), 3, tl.int64), at, size, stride))


def test_offsets_have_64_bits():
    to = torch.empty(16, dtype=torch.int64)
    _offsets[(1,)]((2, 8), (2**40, 2**33, -(2**32)), to)
    assert to.tolist() == [3 * 2**40 + i // 8 * 2**33 - i % 8 * 2**32 for i in range(16)]


@pytest.fixture
def fused(request, monkeypatch):
    """If True, every float32 sum with a product is rounded once, as an fma. (The product is exact in float64.)"""
    if not request.param:
        return False
    names = "fmul", "fadd", "fsub", "fneg"
    multiply, add, subtract, negate = (getattr(InterpreterBuilder, f"create_{name}", None) for name in names)

    def fmul(self, a, b):
        result = multiply(self, a, b)
        if result.data.dtype == np.float32:
            result.product = a.data.astype(np.float64) * b.data.astype(np.float64)
        return result

    def fneg(self, a):
        result = negate(self, a)
        if hasattr(a, "product"):
            result.product = -a.product
        return result

    def fuse(plain, sign):
        def sum_of(self, a, b):
            result = plain(self, a, b)
            if hasattr(a, "product"):
                result.data = (a.product + sign * b.data.astype(np.float64)).astype(np.float32)
            elif hasattr(b, "product"):
                result.data = (a.data.astype(np.float64) + sign * b.product).astype(np.float32)
            return result

        return sum_of

    replaced = {"fmul": fmul, "fneg": fneg, "fadd": fuse(add, 1), "fsub": fuse(subtract, -1)}
    for name, function in replaced.items():
        monkeypatch.setattr(InterpreterBuilder, f"create_{name}", function, raising=False)  # Triton 3.6 subtracts for fneg
    return True


@pytest.fixture
def reciprocals(request, monkeypatch):
    """Relative error of every float32 reciprocal; 0: 2^-23 with either sign, the bound of PTX for rcp.approx.ftz.

    None: rounded to nearest.
    """
    if request.param is None:
        return
    divide = InterpreterBuilder.create_fdiv

    def fdiv(self, a, b):
        result = divide(self, a, b)
        if result.data.dtype == np.float32:
            either = np.where(b.data.view(np.int32) & 1, 2.0**-23, -(2.0**-23))
            exact = a.data.astype(np.float64) / b.data.astype(np.float64)
            result.data = (exact * (1 + (request.param or either))).astype(np.float32)
        return result

    def fma(self, a, b, c):  # the interpreter rounds the product
        exact = a.data.astype(np.float64) * b.data.astype(np.float64) + c.data.astype(np.float64)
        return TensorHandle(exact.astype(a.data.dtype), a.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_fdiv", fdiv)
    monkeypatch.setattr(InterpreterBuilder, "create_fma", fma)


# Variants of float32 arithmetic on a GPU, and float64.
ARITHMETIC = [
    (torch.float32, False, None),
    (torch.float32, False, 0.0),
    (torch.float32, True, 0.0),
    (torch.float32, True, 2.0**-23),
    (torch.float32, True, -(2.0**-23)),
    (torch.float64, False, None),
]


def errors(v: Tensor, scale: Tensor, expected: Tensor) -> list[float]:
    """Maximum errors: relative for bits, relative to |g| + 1 / scale for a derivative g."""
    _, *got = forward(v, scale, None, None, None, False, 0.1, False, True, True)
    assert all(t.isfinite().all() for t in got)
    floors = (0.0, 1 / scale.double(), 1 / scale.double())
    return [((g.double() - e).abs() / (e.abs() + f)).max().item() for g, e, f in zip(got, expected, floors, strict=True)]


@pytest.mark.parametrize(("dtype", "fused", "reciprocals"), ARITHMETIC, indirect=["fused", "reciprocals"], ids=str)
def test_bits_and_derivatives_are_exact(dtype, fused, reciprocals):
    v, scale, exact = points(dtype)
    found = errors(v, scale, torch.tensor(exact, dtype=torch.float64).T[:3, None])
    print(f"errors of bits, by_v and by_scale: {found}")
    assert max(found) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("dtype", "fused", "reciprocals"), ARITHMETIC[:-1], indirect=["fused", "reciprocals"], ids=str)
def test_float32_beside_float64_everywhere(dtype, fused, reciprocals):
    """Half of the points are near the boundary between two formulas."""
    r, s, sign, near = torch.rand(4, 2**15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = torch.where(near < 0.5, 0.11 * 20**s, 0.11 * (256 / 0.11) ** s).float().clamp(0.11, 256)[None]
    v = (torch.where(near < 0.5, 2 * r, s.double() * 1e-3 * 1e6**r) * (sign - 0.5).sign()).float()
    double = torch.ops.dkic.gaussian_likelihood(v.double(), s.double(), None, None, None, False, 0.1, False, True, True)
    found = errors(v, s, torch.stack(double[1:]))
    print(f"errors of bits, by_v and by_scale: {found}")
    assert max(found) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(("dtype", "far"), [(torch.float32, 1e13), (torch.float64, 1e100)], ids=str)
def test_far_beyond_there_is_no_inf_or_nan(dtype, far):
    scale = torch.tensor([1e-3, 0.11, 1.0, 1e3, 1e8], dtype=dtype).repeat_interleave(5)[None]
    v = torch.tensor([0.0, 0.5, 3.0, 1e6, far], dtype=dtype).repeat(5)[None]
    _, bits, by_v, by_scale = forward(v, scale, None, None, None, False, 1e-4, False, True, True)
    assert all(t.isfinite().all() for t in (bits, by_v, by_scale)) and (bits >= 0).all()
    assert not by_v[v == 0].any()


@pytest.mark.parametrize("mode", MODES)
def test_nan_comes_back_as_nan(mode):
    for which in range(3):
        tensors = LATENT.tensors(torch.float32)
        tensors[which][1, 2, 3, 4] = torch.nan
        bits = forward(*arguments(LATENT, mode, tensors))[1]
        assert bits.isnan().nonzero().tolist() == [[1, 2, 3, 4]]


def bits_and_derivatives(v: Tensor, scale: Tensor) -> list[Tensor]:
    """Bits, and the gradients of the backward for a gradient of 1."""
    _, bits, by_v, by_scale = forward(v, scale, None, None, None, False, 0.11, False, True, True)
    return [bits, *backward(None, torch.ones_like(bits), by_v, by_scale, scale, 0.11, True, True, False)[:2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_limits(dtype):
    v, scale = likelihood_limits.points(dtype)
    found = bits_and_derivatives(v, scale)
    likelihood_limits.assert_limits(v, scale, *found)
    nan = likelihood_limits.nans(dtype)
    for tensors in ((nan, torch.ones_like(nan)), (torch.zeros_like(nan), nan), (nan, nan)):
        assert all(t.isnan().all() for t in bits_and_derivatives(*tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_far_beyond_as_on_the_cpu(dtype):
    """Points where the square of v / s, or 1 / s, is outside the normal numbers of the dtype."""
    end = torch.finfo(dtype).max
    far = torch.logspace(12, np.log10(end) - 2, 200, dtype=torch.float64).to(dtype)[None]
    for v, scale in ((far, torch.full_like(far, 0.2)), (torch.full_like(far, 3.0), far), (far, far / 3), (far, far.sqrt())):
        expected = torch.ops.dkic.gaussian_likelihood(v, scale, None, None, None, False, 0.11, False, True, True)[1:]
        for a, e in zip(bits_and_derivatives(v, scale), expected, strict=True):
            torch.testing.assert_close(a, e, rtol=4e-6, atol=torch.finfo(dtype).tiny)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [LATENT, LikelihoodCase("no mean", (2, 33), has_mean=False)], ids=str)
def test_infinity_is_quantized_as_on_the_cpu(case, mode):
    y, *others = case.tensors(torch.float32)
    y.view(-1)[7:9] = torch.tensor([torch.inf, -torch.inf])
    args = arguments(case, mode, (y, *others))
    assert torch.equal(forward(*args)[0], torch.ops.dkic.gaussian_likelihood(*args)[0])


def test_halves_are_rounded_to_even():
    y = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 8388609.0, -3e38, 0.49999997]])
    assert torch.equal(forward(y, torch.ones_like(y), None, None, None, True, 0.11, False, False, False)[0], y.round())


@pytest.mark.parametrize("mode", MODES)
def test_neither_pass_reads_the_host(mode):
    args = arguments(LATENT, mode)
    with NoHostReads():
        _, bits, by_v, by_scale = forward(*args)
        backward(None, bits, by_v, by_scale, args[1], 0.11, True, True, True)


def test_invalid_arguments_are_refused():
    y, scale, mean, *rest = arguments(LATENT, "none")
    for wrong in ((y, scale[:1], mean), (y, scale, mean[0]), (y, scale.to("meta"), mean), (y.sum(), scale.sum(), None)):
        with pytest.raises(RuntimeError, match="gaussian_likelihood: "):
            forward(*wrong, *rest)
    for seed in (torch.tensor([1, 2]), torch.tensor(1.0)):
        with pytest.raises(RuntimeError, match="seed must be one int64 number"):
            forward(y, scale, mean, None, seed, *rest[2:])
