"""Likelihood of a latent under a learned density per channel: Balle et al. 2018, appendix 6.1."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dkic.ops import autograd, backends
from dkic.ops.schemas import library

FILTERS = (3, 3, 3, 3)  # widths of the hidden layers


def factorized_likelihood(
    x: Tensor,
    matrices: Sequence[Tensor],
    biases: Sequence[Tensor],
    factors: Sequence[Tensor],
    *,
    likelihood_min: float = 0.0,
) -> Tensor:
    """Probability of the unit bin around x under the density of its channel.

    With h_0 = x, z_k = softplus(matrix_k) h_k + bias_k and h_(k+1) = z_k + tanh(factor_k) tanh(z_k), the cumulative distribution
    function is F(x) = sigmoid(z_4). The likelihood is F(x + 1/2) - F(x - 1/2).

    Args:
        x: quantized values `[N, C, ...]` on the CPU, float32 or float64.
        matrices, biases, factors: `[C, 3, 1]`, three times `[C, 3, 3]` and `[C, 1, 3]`; four times `[C, 3, 1]` and `[C, 1, 1]`;
            four times `[C, 3, 1]`; any floating-point dtype, converted to the dtype of x.
        likelihood_min: lower bound of the likelihoods, 0 to 1. At the bound the gradient passes only if a descent step would
            increase the likelihood (as in CompressAI's `LowerBound`).

    Results do not depend on the number of threads.

    Returns:
        likelihoods in the shape and dtype of x, contiguous; differentiable with respect to x and all parameters.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: the CPU kernels are not available; the message explains how to fix it.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64) or x.device.type not in ("cpu", "meta"):
        kind = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"factorized_likelihood/x: must be float32 or float64 on the CPU, and is {kind}; convert it")
    if x.dim() < 2:
        raise ValueError(f"factorized_likelihood/x: has shape {list(x.shape)}; give [N, C, ...]")
    if not 0 <= likelihood_min <= 1:
        raise ValueError(f"factorized_likelihood/likelihood_min: must be from 0 to 1, and is {likelihood_min}; choose another")
    if not torch.compiler.is_compiling() and (reason := backends.load_cpu()):
        raise RuntimeError(reason)
    widths, c = (1, *FILTERS, 1), x.shape[1]
    shapes = {
        "matrices": [(c, o, i) for i, o in zip(widths, widths[1:], strict=False)],
        "biases": [(c, o, 1) for o in widths[1:]],
        "factors": [(c, o, 1) for o in FILTERS],
    }
    for name, given in (("matrices", matrices), ("biases", biases), ("factors", factors)):
        found = [tuple(t.shape) for t in given]
        if found != shapes[name]:
            what = f"must have shapes {shapes[name]}, and have {found}"
            raise ValueError(f"factorized_likelihood/{name}: {what}; check the filters")
    parts = []
    for k, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
        parts += [F.softplus(matrix), bias, *([torch.tanh(factors[k])] if k < len(FILTERS) else [])]
    parameters = torch.cat([part.flatten(1) for part in parts], 1).to(x.dtype)
    return torch.ops.dkic.factorized_likelihood(x.contiguous(), parameters, likelihood_min)


@torch.library.register_fake("dkic::factorized_likelihood", lib=library)
def _fake(x, parameters, likelihood_min):
    return x.new_empty(x.shape)


@torch.library.register_fake("dkic::factorized_likelihood_backward", lib=library)
def _backward_fake(grad, x, parameters, likelihood, likelihood_min):
    return x.new_empty(x.shape), parameters.new_empty(parameters.shape)


def _setup_context(ctx, inputs, output) -> None:
    x, parameters, ctx.likelihood_min = inputs
    ctx.save_for_backward(x, parameters, output)


def _backward(ctx, grad):
    x, parameters, likelihood = ctx.saved_tensors
    grads = torch.ops.dkic.factorized_likelihood_backward(grad.contiguous(), x, parameters, likelihood, ctx.likelihood_min)
    return *grads, None


autograd.register("factorized_likelihood", _backward, _setup_context)

backends.load_cpu()  # ops must be registered before tracing; the first call reports a missing library
