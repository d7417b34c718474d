"""Gaussian likelihood of a latent: noise or rounding, and the bits of every element, in one pass."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dkic.ops import autograd, backends
from dkic.ops.accepted_calls import accept, call_of, was_accepted
from dkic.ops.schemas import library

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
QUANTIZE = ("noise", "round", "none")
REDUCTIONS = ("none", "sum")
OUTPUTS = ("bits", "likelihood")
LEAST_SCALE, MOST_SCALE = 1e-4, 1e8  # float32 holds what the formula makes of these


def gaussian_likelihood(
    y: Tensor,
    scale: Tensor,
    mean: Tensor | None = None,
    *,
    quantize: Literal["noise", "round", "none"],
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    scale_min: float = 0.11,
    reduction: Literal["none", "sum"] = "none",
    output: Literal["bits", "likelihood"] = "bits",
    likelihood_min: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The quantised latent and its bits under a Gaussian that is integrated over unit bins.

        v = quantised y - mean,   s = max(scale, scale_min),   bits = -log2(Phi((v + 1/2) / s) - Phi((v - 1/2) / s))

    (Balle et al. 2018, "Variational image compression with a scale hyperprior".) v is the residual before the mean is added
    back, so a large mean costs no precision. Nothing is clamped: bits and gradients are exact and finite far out in the
    tails. Against exact arithmetic at the same v and s, for |v| / s up to 1e3 and s in [0.11, 256], bits are within 1e-6 of
    themselves and a gradient g within 1e-6 * (|g| + 1/s); for float64, within 1e-14.

    NaN in y, scale, mean or noise gives NaN in the bits and gradients of that element. Infinity gives the limit: an infinite
    scale, infinite bits with gradients of 0; an infinite residual, infinite bits with infinite gradients; both, NaN.

    Args:
        y: any shape, batch first; float32, float64, float16 or bfloat16.
        scale: standard deviations; broadcasts to the shape of y.
        mean: broadcasts to the shape of y; None means 0.
        quantize: "noise": y_hat = y + u, u uniform in [-1/2, 1/2); "round": y_hat = round(y - mean) + mean, half to even, with
            the gradient passed straight through; "none": y_hat is y itself.
        noise: u, in the shape of y, for quantize="noise"; it gets no gradient. None: drawn, a multiple of 2^-24.
        generator: where the noise's seed is drawn from; None: torch's own. For one seed the noise of an element depends on its
            sample's number in the batch and its number in the sample alone, not on layout, dtype or threads (Philox 4x32-10).
            torch.compile can't trace a generator: compiled, give the noise or leave this None.
        scale_min: lower bound of s, 0.0001 to 1e8. Below it scale's gradient passes only where a step down it would raise scale.
        reduction: "none": bits of every element; "sum": of every sample, `[N]`, summed in float64.
        output: "bits", or "likelihood": 2^-bits, the probability of the bin, for reduction="none".
        likelihood_min: lower bound of the likelihoods, 0 to 1. At the bound the gradient passes only if a descent step would
            increase the likelihood (as in CompressAI's `LowerBound`).

    Tensors may have any strides (slices of channels and expanded tensors are read in place) and different dtypes, which are
    converted as they are read. All is computed in float32, or in float64 where one of the tensors is float64, also under
    autocast; a gradient is then rounded to the dtype of its tensor (float16 ends at 65504). The result on the CPU does not depend
    on the number of threads.

    Returns:
        y_hat in the shape and dtype of y; bits or likelihoods in the shape of y, or `[N]`, float32 (float64 where computed so).
        Both are contiguous, or channels_last where y has its channels adjacent and 4 or 5 dimensions.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: the kernels for y's device are not built; the message says what to do.
    """
    options = (quantize, scale_min, reduction, output, likelihood_min)
    drawn_from = None if generator is None else (type(generator), getattr(generator, "device", None))
    has_gradient = isinstance(noise, Tensor) and noise.requires_grad
    call = call_of("gaussian_likelihood", y, scale, mean, noise, drawn_from, has_gradient, *options)
    if not was_accepted(call):
        tensors = {"scale": scale, "mean": mean, "noise": noise}
        check_tensors("gaussian_likelihood", y, tensors, ("mean", "noise"), broadcast=("scale", "mean"))
        _check_options(quantize, noise, scale_min, reduction)
        _check_generator(generator, quantize, noise, y)
        _check_output(output, likelihood_min, reduction)
        accept(call)
    scale, mean = _expanded(scale, y), None if mean is None else _expanded(mean, y)
    backends.check_runs("gaussian_likelihood", y.device)
    seed = None
    if quantize == "noise" and noise is None:
        seed = torch.randint(2**63 - 1, (), generator=generator, dtype=torch.int64, device=y.device)
    need_v = torch.is_grad_enabled() and (y.requires_grad or (mean is not None and mean.requires_grad))
    need_scale = torch.is_grad_enabled() and scale.requires_grad
    how = quantize == "round", scale_min, reduction == "sum", need_v, need_scale, output == "likelihood", likelihood_min
    if autograd.is_plain_call(y, scale, mean):  # see there: it spares autograd's time
        with torch._C._AutoDispatchBelowAutograd():
            y_hat, bits, _, _ = torch.ops.dkic.gaussian_likelihood(y, scale, mean, noise, seed, *how)
    else:
        y_hat, bits, _, _ = torch.ops.dkic.gaussian_likelihood(y, scale, mean, noise, seed, *how)
    return (y if quantize == "none" else y_hat), bits


def _expanded(t: Tensor, y: Tensor) -> Tensor:
    """t in the shape of y. Half types as float32, so that gradients are rounded after they are summed, not before."""
    if t.shape == y.shape:
        return t
    return (t.float() if t.dtype.itemsize == 2 else t).expand(y.shape)


def check_tensors(
    op: str, y: Tensor, others: dict[str, Tensor | None], optional: Sequence[str], broadcast: Sequence[str] = ()
) -> None:
    """Raises where `others`, some of them optional, are not tensors that go with y; some may broadcast to its shape."""
    named = [("y", y), *((name, t) for name, t in others.items() if t is not None or name not in optional)]
    for name, t in named:
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}/{name}: must be a tensor, and is a {type(t).__name__}")
        if t.dtype not in FLOATS:
            raise TypeError(f"{op}/{name}: must be float32, float64, float16 or bfloat16, and is {str(t.dtype)[6:]}")
        if t.dim() == 0 and name not in broadcast:
            raise ValueError(f"{op}/{name}: must have a batch dimension, and has shape []")
        if name in broadcast:
            sizes = zip(reversed(t.shape), reversed(y.shape), strict=False)
            if t.dim() > y.dim() or any(size not in (1, of_y) for size, of_y in sizes):
                raise ValueError(f"{op}/{name}: must broadcast to y's shape {list(y.shape)}, and has {list(t.shape)}")
        elif t.shape != y.shape:
            raise ValueError(f"{op}/{name}: must have y's shape {list(y.shape)}, and has {list(t.shape)}")
        if t.device != y.device:
            raise ValueError(f"{op}/{name}: must be on y's device {y.device}, and is on {t.device}")


def _check_options(quantize: str, noise: Tensor | None, scale_min: float, reduction: str) -> None:
    for name, value, choices in (("quantize", quantize, QUANTIZE), ("reduction", reduction, REDUCTIONS)):
        if value not in choices:
            raise ValueError(f"gaussian_likelihood/{name}: must be one of {', '.join(choices)}, and is {value!r}")
    _check_number("scale_min", scale_min)
    if not LEAST_SCALE <= scale_min <= MOST_SCALE:
        raise ValueError(f"gaussian_likelihood/scale_min: must be from {LEAST_SCALE:g} to {MOST_SCALE:g}, and is {scale_min}")
    if noise is not None and quantize != "noise":
        raise ValueError(f"gaussian_likelihood/noise: must be None for quantize={quantize!r}, which draws no noise")
    if noise is not None and noise.requires_grad:
        raise ValueError("gaussian_likelihood/noise: must not require a gradient, and does")


def _check_generator(generator: torch.Generator | None, quantize: str, noise: Tensor | None, y: Tensor) -> None:
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise TypeError(f"gaussian_likelihood/generator: must be a torch.Generator, and is a {kind}; seed one with manual_seed")
    if quantize != "noise":
        raise ValueError(f"gaussian_likelihood/generator: must be None for quantize={quantize!r}, which draws no noise")
    if noise is not None:
        raise ValueError("gaussian_likelihood/generator: must be None where noise is given")
    if generator.device.type != y.device.type != "meta":
        devices = f"must be on y's device {y.device}, and is on {generator.device}"
        raise ValueError(f"gaussian_likelihood/generator: {devices}; give torch.Generator({str(y.device)!r})")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"gaussian_likelihood/{name}: must be a number, and is a {type(value).__name__}")


def _check_output(output: str, likelihood_min: float, reduction: str) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"gaussian_likelihood/output: must be one of {', '.join(OUTPUTS)}, and is {output!r}")
    _check_number("likelihood_min", likelihood_min)
    if not 0 <= likelihood_min <= 1:
        raise ValueError(f"gaussian_likelihood/likelihood_min: must be from 0 to 1, and is {likelihood_min}")
    if output == "bits" and likelihood_min != 0:
        raise ValueError("gaussian_likelihood/likelihood_min: must be 0 for output='bits', which has no bound")
    if output == "likelihood" and reduction != "none":
        raise ValueError("gaussian_likelihood/reduction: must be 'none' for output='likelihood'; sum its logarithms")


def empty_result(like: Tensor, dtype: torch.dtype, wanted: bool = True) -> Tensor:
    """As the native code lays results out."""
    if not wanted:
        return like.new_empty((0,), dtype=dtype)
    memory_format = torch.contiguous_format
    if like.dim() in (4, 5) and like.stride(1) == 1:
        memory_format = torch.channels_last if like.dim() == 4 else torch.channels_last_3d
    return torch.empty(like.shape, dtype=dtype, device=like.device, memory_format=memory_format)


@torch.library.register_fake("dkic::gaussian_likelihood", lib=library)
def _fake(y, scale, mean, noise, seed, rounded, scale_min, sum, need_v, need_scale, likelihood=False, likelihood_min=0.0):
    is_double = any(t is not None and t.dtype == torch.float64 for t in (y, scale, mean, noise))
    dtype = torch.float64 if is_double else torch.float32
    return (
        empty_result(y, y.dtype, rounded or noise is not None or seed is not None),
        y.new_empty((y.shape[0],), dtype=dtype) if sum else empty_result(y, dtype),
        empty_result(y, dtype, need_v),
        empty_result(y, dtype, need_scale),
    )


@torch.library.register_fake("dkic::gaussian_likelihood_backward", lib=library)
def _backward_fake(
    grad_y_hat, grad_bits, by_v, by_scale, scale, scale_min, need_y, need_scale, need_mean, likelihood=None, likelihood_min=0.0
):
    like = by_v if need_y or need_mean else by_scale if need_scale else scale
    dtype = torch.float64 if grad_bits.dtype == torch.float64 else torch.float32
    return tuple(empty_result(like, dtype, needed) for needed in (need_y, need_scale, need_mean))


@torch.library.impl("dkic::gaussian_likelihood", "CUDA", lib=library)
def _cuda(*arguments):
    return backends.triton_kernels("gaussian_likelihood").forward(*arguments)


@torch.library.impl("dkic::gaussian_likelihood_backward", "CUDA", lib=library)
def _backward_cuda(*arguments):
    return backends.triton_kernels("gaussian_likelihood").backward(*arguments)


def _setup_context(ctx, inputs, output) -> None:
    y, scale, mean, noise, seed, rounded, ctx.scale_min, _, need_v, need_scale, is_likelihood, ctx.likelihood_min = inputs
    y_hat, bits, by_v, by_scale = output
    ctx.needed = need_v, need_scale
    ctx.dtypes = y.dtype, scale.dtype, None if mean is None else mean.dtype
    ctx.save_for_backward(by_v, by_scale, scale, bits if is_likelihood and ctx.likelihood_min > 0 else None)
    unused = () if rounded or noise is not None or seed is not None else (y_hat,)  # empty, since it would be y itself
    ctx.mark_non_differentiable(*unused, by_v, by_scale)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y_hat, grad_bits, *_):
    by_v, by_scale, scale, likelihood = ctx.saved_tensors
    need_y, need_scale, need_mean = ctx.needs_input_grad[:3]
    if grad_bits is None:  # y_hat's gradient passes straight through
        return (grad_y_hat if need_y else None, *(None,) * 11)
    if ((need_y or need_mean) and not ctx.needed[0]) or (need_scale and not ctx.needed[1]):
        raise RuntimeError("dkic::gaussian_likelihood was called without need_v or need_scale, and its gradient is wanted")
    gradients = torch.ops.dkic.gaussian_likelihood_backward(
        grad_y_hat, grad_bits, by_v, by_scale, scale, ctx.scale_min, need_y, need_scale, need_mean, likelihood, ctx.likelihood_min
    )
    wanted = zip(gradients, ctx.dtypes, (need_y, need_scale, need_mean), strict=True)
    return (*(g.to(dtype) if needed else None for g, dtype, needed in wanted), *(None,) * 9)


autograd.register("gaussian_likelihood", _backward, _setup_context)

backends.load_cpu()  # ops must be registered before they are first traced; a missing library is reported when it is used
