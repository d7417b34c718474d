"""Quantization of a latent (noise or rounding) and the bits of every element under a Gaussian, in one pass."""

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
LEAST_SCALE, MOST_SCALE = 1e-4, 1e8  # no intermediate value overflows in float32


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
    """The quantized latent and its bits under a Gaussian, integrated over unit bins.

        v = quantized y - mean,   s = max(scale, scale_min),   bits = -log2(Phi((v + 1/2) / s) - Phi((v - 1/2) / s))

    (Balle et al. 2018, "Variational image compression with a scale hyperprior".) v is the residual before the mean is added
    back, so a large mean does not reduce precision. Probabilities are not clamped: bits and gradients are accurate and finite far
    out in the tails. Compared with exact arithmetic for the same v and s, with |v| / s up to 1e3 and s in [0.11, 256], the
    relative error of bits is at most 1e-6 and the error of a gradient g at most 1e-6 * (|g| + 1/s); in float64, 1e-14.

    NaN in y, scale, mean or noise produces NaN bits and gradients for that element. Infinity produces the limit: an infinite
    scale gives infinite bits and zero gradients; an infinite residual gives infinite bits and infinite gradients; both give NaN.

    Args:
        y: any shape, batch first; float32, float64, float16 or bfloat16.
        scale: standard deviations; broadcasts to the shape of y.
        mean: broadcasts to the shape of y; None means 0.
        quantize: "noise": y_hat = y + u, u uniform in [-1/2, 1/2); "round": y_hat = round(y - mean) + mean, half to even, with a
            straight-through gradient; "none": y_hat is y.
        noise: u, in the shape of y, for quantize="noise"; not differentiable. None: random multiples of 2^-24.
        generator: generator of the noise's seed; None: PyTorch's default generator. For a given seed, the noise of an element
            depends only on the sample's index in the batch and the element's index in the sample, not on layout, dtype or number
            of threads (Philox 4x32-10). torch.compile cannot trace a generator: in compiled code, pass noise, or None here.
        scale_min: lower bound of s, 0.0001 to 1e8. Below the bound, the gradient passes only if a descent step would increase
            scale (as in CompressAI's `LowerBound`).
        reduction: "none": bits of every element; "sum": bits of every sample, `[N]`, summed in float64.
        output: "bits", or "likelihood": 2^-bits, the probability of the bin, for reduction="none".
        likelihood_min: lower bound of the likelihoods, 0 to 1. At the bound the gradient passes only if a descent step would
            increase the likelihood (as in CompressAI's `LowerBound`).

    Tensors can have any strides (slices of channels and expanded tensors are read in place) and different dtypes, converted on
    load. The op computes in float32, or in float64 if any tensor is float64, also under autocast. Gradients are rounded to the
    dtype of their tensor (the float16 maximum is 65504). Results on the CPU do not depend on the number of threads.

    Returns:
        y_hat in the shape and dtype of y; bits or likelihoods in the shape of y, or `[N]`, in float32 (float64 if any tensor is
        float64). Both are channels_last if y has 4 or 5 dimensions and a channel stride of 1, else contiguous.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
        RuntimeError: the kernels for y's device are not available; the message explains how to fix it.
    """
    options = (quantize, scale_min, reduction, output, likelihood_min)
    drawn_from, has_gradient = generator is not None, isinstance(noise, Tensor) and noise.requires_grad
    call = call_of("gaussian_likelihood", y, scale, mean, noise, drawn_from, has_gradient, *options)
    if not was_accepted(call):
        tensors = {"scale": scale, "mean": mean, "noise": noise}
        check_tensors("gaussian_likelihood", y, tensors, ("mean", "noise"), broadcast=("scale", "mean"))
        _check_options(quantize, noise, generator, scale_min, reduction)
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
    if autograd.is_plain_call(y, scale, mean):  # skips the overhead of autograd
        with torch._C._AutoDispatchBelowAutograd():
            y_hat, bits, _, _ = torch.ops.dkic.gaussian_likelihood(y, scale, mean, noise, seed, *how)
    else:
        y_hat, bits, _, _ = torch.ops.dkic.gaussian_likelihood(y, scale, mean, noise, seed, *how)
    return (y if quantize == "none" else y_hat), bits


def _expanded(t: Tensor, y: Tensor) -> Tensor:
    """t expanded to the shape of y. Half types become float32, so that gradients are rounded after they are summed."""
    if t.shape == y.shape:
        return t
    return (t.float() if t.dtype.itemsize == 2 else t).expand(y.shape)


def check_tensors(
    op: str, y: Tensor, others: dict[str, Tensor | None], optional: Sequence[str], broadcast: Sequence[str] = ()
) -> None:
    """Raises unless y and `others` are floating-point tensors of the same shape and device.

    Args:
        optional: names of `others` that can be None.
        broadcast: names of `others` that can broadcast to the shape of y.
    """
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


def _check_options(
    quantize: str, noise: Tensor | None, generator: torch.Generator | None, scale_min: float, reduction: str
) -> None:
    for name, value, choices in (("quantize", quantize, QUANTIZE), ("reduction", reduction, REDUCTIONS)):
        if value not in choices:
            raise ValueError(f"gaussian_likelihood/{name}: must be one of {', '.join(choices)}, and is {value!r}")
    if not isinstance(scale_min, (int, float)):
        raise TypeError(f"gaussian_likelihood/scale_min: must be a number, and is a {type(scale_min).__name__}")
    if not LEAST_SCALE <= scale_min <= MOST_SCALE:
        raise ValueError(f"gaussian_likelihood/scale_min: must be from {LEAST_SCALE:g} to {MOST_SCALE:g}, and is {scale_min}")
    for name, given in (("noise", noise), ("generator", generator)):
        if given is not None and quantize != "noise":
            raise ValueError(f"gaussian_likelihood/{name}: must be None for quantize={quantize!r}, which draws no noise")
    if noise is not None and generator is not None:
        raise ValueError("gaussian_likelihood/generator: must be None where noise is given")
    if noise is not None and noise.requires_grad:
        raise ValueError("gaussian_likelihood/noise: must not require a gradient, and does")


def _check_output(output: str, likelihood_min: float, reduction: str) -> None:
    if output not in OUTPUTS:
        raise ValueError(f"gaussian_likelihood/output: must be one of {', '.join(OUTPUTS)}, and is {output!r}")
    if not isinstance(likelihood_min, (int, float)):
        raise TypeError(f"gaussian_likelihood/likelihood_min: must be a number, and is a {type(likelihood_min).__name__}")
    if not 0 <= likelihood_min <= 1:
        raise ValueError(f"gaussian_likelihood/likelihood_min: must be from 0 to 1, and is {likelihood_min}")
    if output == "bits" and likelihood_min != 0:
        raise ValueError("gaussian_likelihood/likelihood_min: must be 0 for output='bits', which has no bound")
    if output == "likelihood" and reduction != "none":
        raise ValueError("gaussian_likelihood/reduction: must be 'none' for output='likelihood'; sum its logarithms")


def empty_result(like: Tensor, dtype: torch.dtype, wanted: bool = True) -> Tensor:
    """An empty result with the memory format of the native kernels; without elements if not `wanted`."""
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
    unused = () if rounded or noise is not None or seed is not None else (y_hat,)  # empty, because y_hat is y
    ctx.mark_non_differentiable(*unused, by_v, by_scale)
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y_hat, grad_bits, *_):
    by_v, by_scale, scale, likelihood = ctx.saved_tensors
    need_y, need_scale, need_mean = ctx.needs_input_grad[:3]
    if grad_bits is None:  # straight-through gradient of y_hat
        return (grad_y_hat if need_y else None, *(None,) * 11)
    if ((need_y or need_mean) and not ctx.needed[0]) or (need_scale and not ctx.needed[1]):
        raise RuntimeError("dkic::gaussian_likelihood was called without need_v or need_scale, and its gradient is wanted")
    gradients = torch.ops.dkic.gaussian_likelihood_backward(
        grad_y_hat, grad_bits, by_v, by_scale, scale, ctx.scale_min, need_y, need_scale, need_mean, likelihood, ctx.likelihood_min
    )
    wanted = zip(gradients, ctx.dtypes, (need_y, need_scale, need_mean), strict=True)
    return (*(g.to(dtype) if needed else None for g, dtype, needed in wanted), *(None,) * 9)


autograd.register("gaussian_likelihood", _backward, _setup_context)

backends.load_cpu()  # ops must be registered before tracing; the first call reports a missing library
