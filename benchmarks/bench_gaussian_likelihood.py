"""gaussian_likelihood compared with CompressAI's GaussianConditional: forward, and with backward, noisy and rounded, float32;
on the CPU and on a GPU if available.

Peers return likelihoods; the logarithm to bits, which a loss needs, is timed with them. "compiled" is the
same formula with torch.compile; "copy" copies as many tensors as there are results: a lower bound. A result is compared with the
formula in float64 before it is timed.
"""

from collections.abc import Callable

import pytest
import roofline
import torch
from devices import ON, devices
from ops.op_cases import LikelihoodCase
from peers import compressai_likelihood, plain_gaussian
from problem_sizes import LIKELIHOOD_PROBLEMS
from torch import Tensor

from dkic.ops import gaussian_likelihood, gaussian_symbols, reference

IMPLEMENTATIONS = ("compressai", "compiled", "copy", "dkic")  # the peers first: see conftest.py
ROUNDS = 30
DEVICES = devices("triton")

# The peers' own accuracy: a difference of two error functions, and the noise of its float32.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def latent(case: LikelihoodCase, scattered: bool, device: str) -> list[Tensor]:
    """y, scale and mean: scales of 0.11 to 12, residuals of that size.

    In a codec the scale depends on the channel and varies little otherwise; "scattered": an independent scale for each element.
    """
    generator = torch.Generator().manual_seed(0)
    index = torch.rand(case.shape if scattered else (*case.shape[:2], 1, 1), generator=generator)
    scale = 0.11 * 110 ** (index + 0.05 * torch.randn(case.shape, generator=generator)).clamp(0, 1)
    mean = torch.randn(case.shape, generator=generator)
    y = mean + scale * torch.randn(case.shape, generator=generator).clamp(-3, 3)
    return [t.to(device).requires_grad_() for t in (y, scale, mean)]


def calls(
    case: LikelihoodCase, implementation: str, quantize: str, scattered: bool, device: str
) -> dict[str, Callable[[], list[Tensor]]]:
    """The timed call: "forward" returns y_hat and bits, "forward+backward" also the gradients of y, scale and mean."""
    leaves = latent(case, scattered, device)
    gradients = [t.to(device) for t in case.gradients("none", torch.float32)]

    def op() -> tuple[Tensor, Tensor]:
        if implementation == "dkic":
            return gaussian_likelihood(*leaves, quantize=quantize)
        return PEERS[implementation](*leaves, quantize == "noise")

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return list(op())

    def both() -> list[Tensor]:
        outputs = op()
        return [*(t.detach() for t in outputs), *torch.autograd.grad(outputs, leaves, gradients)]

    if implementation == "copy":
        maps = [t.detach() for t in (*leaves, *gradients)]
        return {"forward": lambda: [t.clone() for t in maps[:2]], "forward+backward": lambda: [t.clone() for t in maps]}
    return {"forward": forward, "forward+backward": both}


PEERS = {"compressai": compressai_likelihood(), "compiled": torch.compile(plain_gaussian)}


def check(case: LikelihoodCase, implementation: str, quantize: str, scattered: bool, device: str) -> None:
    """Checks the result: bits of the residual given by y_hat."""
    y, scale, mean = (t.detach().double() for t in latent(case, scattered, device))
    y_hat, bits, *_ = calls(case, implementation, quantize, scattered, device)["forward"]()
    residual = y_hat.double() - mean
    torch.testing.assert_close(bits.double(), reference.gaussian_bits(residual, scale.clamp_min(0.11)), **CLOSE)
    if quantize == "round":
        torch.testing.assert_close(residual, (y - mean).round(), atol=1e-5, rtol=0)
    assert (y_hat - y).abs().max() <= 0.5 + 1e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("quantize", ["noise", "round"])
@pytest.mark.parametrize("scattered", [False, True], ids=["by channel", "scattered"])
@pytest.mark.parametrize("case", LIKELIHOOD_PROBLEMS, ids=str)
def test_gaussian_likelihood(case, scattered, quantize, work, device, implementation, measure):
    if implementation != "copy":
        check(case, implementation, quantize, scattered, device)
    call = calls(case, implementation, quantize, scattered, device)[work]
    scales = "scattered scales" if scattered else "scales by channel"
    parts = roofline.gaussian_likelihood(case)[: 1 if work == "forward" else 2] if implementation == "dkic" else ()
    work = f"gaussian_likelihood {quantize} {work} {case}, {scales}{ON[device]}"
    measure(work, implementation, call, ROUNDS, device=device, parts=parts)


@pytest.mark.parametrize("implementation", ["compressai", "dkic"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", LIKELIHOOD_PROBLEMS, ids=str)
def test_gaussian_symbols(case, device, implementation, measure):
    """Symbols and indexes; CompressAI's index is that of the first table whose scale is not below."""
    from compressai.entropy_models import GaussianConditional

    y, scale, mean = (t.detach() for t in latent(case, True, device))
    peer = GaussianConditional(torch.exp(torch.linspace(-2.2073, 5.5452, 64)).tolist()).to(device)

    def compressai() -> tuple[Tensor, Tensor]:
        return peer.quantize(y, "symbols", mean), peer.build_indexes(scale)

    def dkic() -> tuple[Tensor, Tensor]:
        return gaussian_symbols(y, scale, mean)

    for ours, theirs in zip(dkic(), compressai(), strict=True):
        assert (ours.int() - theirs).abs().max() <= 1
    call = {"compressai": compressai, "dkic": dkic}[implementation]
    parts = (roofline.gaussian_symbols(case),) if implementation == "dkic" else ()
    measure(f"gaussian_symbols {case}{ON[device]}", implementation, call, ROUNDS, device=device, parts=parts)
