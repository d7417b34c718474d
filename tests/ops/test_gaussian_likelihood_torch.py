"""dkic.ops.gaussian_likelihood inside torch: autograd, torch.library's checks, compile, export, autocast, meta tensors."""

import pytest
import torch
from ops import tolerances
from ops.op_cases import LATENT, LikelihoodCase
from torch import Tensor, nn

from dkic.ops import gaussian_likelihood

TINY = LikelihoodCase("tiny", (2, 3, 3, 4))
FEW = [LATENT, LikelihoodCase("no mean", (2, 33), has_mean=False), LikelihoodCase("empty", (0, 3, 2, 2))]
CHOICES = [
    {"quantize": "noise"},
    {"quantize": "round"},
    {"quantize": "none"},
    {"quantize": "noise", "reduction": "sum"},
    {"quantize": "round", "reduction": "sum"},
    {"quantize": "noise", "output": "likelihood"},
    {"quantize": "noise", "output": "likelihood", "likelihood_min": 1e-3},
]


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("quantize", ["noise", "none"])  # a rounded residual has no slope: test_equals_reference
def test_gradcheck(quantize, reduction):
    y, scale, mean = TINY.tensors()
    scale = scale.abs() + 0.12
    noise = TINY.noise() if quantize == "noise" else None

    def call(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_likelihood(*tensors, quantize=quantize, noise=noise, reduction=reduction)

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in (y, scale, mean)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_opcheck(case, dtype):
    tensors = [t if t is None else t.requires_grad_() for t in case.tensors(dtype)]
    modes = ((None, torch.tensor(3), False), (case.noise(dtype), None, False), (None, None, True), (None, None, False))
    for i, (noise, seed, rounded) in enumerate(modes):
        by_sample = (i + (dtype == torch.bfloat16)) % 2 == 0  # each mode both ways, in one dtype or the other
        arguments = (*tensors, noise, seed, rounded, 0.11, by_sample, True, True)
        torch.library.opcheck(torch.ops.dkic.gaussian_likelihood.default, arguments, **tolerances.OPCHECK[dtype])
    scale = tensors[1].detach()
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    maps = [case.gradients("none", computed)[0] for _ in range(2)]
    for reduction, *wanted in (("none", True, True, case.has_mean), ("sum", True, False, False), ("none", False, True, False)):
        grads = case.gradients("none", dtype)[0], case.gradients(reduction, computed)[1]
        torch.library.opcheck(torch.ops.dkic.gaussian_likelihood_backward.default, (*grads, *maps, scale, 0.11, *wanted))


@pytest.mark.parametrize("likelihood_min", [0.0, 0.2])
def test_opcheck_of_likelihoods(likelihood_min):
    tensors = [t.requires_grad_() for t in TINY.tensors()]
    arguments = (*tensors, TINY.noise(), None, False, 0.11, False, True, True, True, likelihood_min)
    torch.library.opcheck(torch.ops.dkic.gaussian_likelihood.default, arguments, **tolerances.OPCHECK[torch.float64])
    grads = TINY.gradients("none")
    maps = (*grads, *grads, tensors[1].detach(), 0.11, True, True, True, TINY.noise().abs(), likelihood_min)
    torch.library.opcheck(torch.ops.dkic.gaussian_likelihood_backward.default, maps)


@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rounded", [False, True])
def test_opcheck_of_the_derivatives_that_are_wanted(rounded, wanted):
    y, scale, mean = TINY.tensors()
    arguments = (y.requires_grad_(wanted[0]), scale.requires_grad_(wanted[1]), mean, None, None, rounded, 0.11, False, *wanted)
    torch.library.opcheck(torch.ops.dkic.gaussian_likelihood.default, arguments)


def outcome(call, tensors, choice: dict) -> list[Tensor]:
    torch.manual_seed(0)  # of the noise
    tensors = [t.detach().requires_grad_() for t in tensors]
    y_hat, bits = call(*tensors, **choice)
    return [y_hat, bits, *torch.autograd.grad(y_hat.sin().sum() + bits.sum(), tensors)]


# inductor once: what it adds is the check of strides, the same for all
@pytest.mark.parametrize(("choice", "backend"), [*((c, "aot_eager") for c in CHOICES), (CHOICES[0], "inductor")], ids=str)
def test_compile_for_all_sizes_at_once(choice, backend):
    torch._dynamo.reset()
    compiled = torch.compile(gaussian_likelihood, fullgraph=True, dynamic=True, backend=backend)
    for shape in ((2, 6, 5, 7), (3, 4, 6, 5)):
        for layout in (torch.contiguous_format, torch.channels_last):
            tensors = [t.contiguous(memory_format=layout) for t in LikelihoodCase("", shape).tensors(torch.float32)]
            actual, expected = (outcome(call, tensors, choice) for call in (compiled, gaussian_likelihood))
            for a, e in zip(actual, expected, strict=True):
                assert a.stride() == e.stride()
                torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-6)  # of the sine and the sum around it


class Prior(nn.Module):
    """Typical use: mean and scale are slices of a prediction from the latent."""

    def __init__(self, **choice) -> None:
        super().__init__()
        self.choice = choice
        self.predict = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.predict(y).chunk(2, 1)
        return gaussian_likelihood(y, scale.exp(), mean, **self.choice)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_export_with_dynamic_height_and_width(choice):
    torch.manual_seed(0)
    prior = Prior(**choice).double()
    height, width = torch.export.Dim("height", min=2, max=4096), torch.export.Dim("width", min=2, max=4096)
    program = torch.export.export(prior, (LATENT.tensors()[0],), dynamic_shapes={"y": {2: height, 3: width}})
    for h, w in ((5, 7), (13, 6), (40, 51)):
        y = torch.randn(2, 6, h, w, dtype=torch.float64)
        outputs = []
        for module in (program.module(), prior):
            torch.manual_seed(1)
            outputs.append(module(y))
        for a, e in zip(*outputs, strict=True):
            torch.testing.assert_close(a, e, **tolerances.FLOAT64)


def test_compile_of_slices_of_a_prediction():
    torch.manual_seed(0)
    prior = Prior(quantize="round").double()
    compiled = torch.compile(prior, fullgraph=True, backend="aot_eager")
    y = LATENT.tensors()[0].contiguous(memory_format=torch.channels_last)
    for a, e in zip(compiled(y), prior(y), strict=True):
        torch.testing.assert_close(a, e, **tolerances.FLOAT64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(dtype):
    """y_hat has the dtype of y, and bits are computed in float32 (float64)."""
    for tensors in (LATENT.tensors(torch.float32), LATENT.tensors(torch.float64), LATENT.tensors(dtype)):
        expected = gaussian_likelihood(*tensors, quantize="round")
        compiled = torch.compile(gaussian_likelihood, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype):
            for call in (gaussian_likelihood, compiled):
                actual = call(*tensors, quantize="round")
                assert [t.dtype for t in actual] == [t.dtype for t in expected]
                assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_meta_tensors_give_shape_layout_and_dtype(choice, layout):
    real = [t.contiguous(memory_format=layout) for t in LATENT.tensors(torch.float16)]
    meta = [t.to("meta").requires_grad_() for t in real]
    actual = gaussian_likelihood(*meta, **choice)
    for a, e in zip(actual, gaussian_likelihood(*real, **choice), strict=True):
        assert (a.shape, a.dtype, a.stride()) == (e.shape, e.dtype, e.stride())
    torch.autograd.backward(actual, [torch.empty_like(t) for t in actual])
    assert all(t.grad.shape == t.shape for t in meta)
