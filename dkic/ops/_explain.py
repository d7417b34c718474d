"""Description of the backend and kernels that run a call of an op."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from dkic.ops import backends, ldcn_cuda_kernels
from dkic.ops._deform_conv2d import deform_conv2d
from dkic.ops._factorized_likelihood import factorized_likelihood
from dkic.ops._gaussian_indexes import edges_between, gaussian_indexes
from dkic.ops._gaussian_likelihood import gaussian_likelihood
from dkic.ops._gaussian_symbols import gaussian_symbols
from dkic.ops._ldcn import ldcn
from dkic.ops.deform_arguments import pair_of

_OPS: dict[str, Callable] = {
    op.__name__: op
    for op in (deform_conv2d, factorized_likelihood, gaussian_indexes, gaussian_likelihood, gaussian_symbols, ldcn)
}
_PAIRS = ("kernel_size", "stride", "padding", "dilation")


def explain(op: str, *arguments: Any, **options: Any) -> str:
    """Describes the backend of an op call and, for `deform_conv2d` and `ldcn` on a GPU, its kernels. Launches no kernel.

        print(dkic.ops.explain("deform_conv2d", x, offset, weight, padding=1))

    Args:
        op: "deform_conv2d", "factorized_likelihood", "gaussian_indexes", "gaussian_likelihood", "gaussian_symbols" or "ldcn".
        arguments, options: positional and keyword arguments of the call, checked as in the call.

    Returns:
        One or more lines, without a trailing newline. For `deform_conv2d` with its tiles, which are defaults for the compute
        capability, or tuned: `python -m benchmarks.tune_deform_conv2d` measures them for a shape and stores them in dkic's cache
        folder. For `ldcn`'s CUDA kernels with the reason why a call uses a general kernel.

    Raises:
        ValueError: `op` is unknown.
        TypeError, ValueError, RuntimeError: the call would raise it: an argument is wrong, or no backend supports the tensors'
            device; the message explains how to fix it.
    """
    if op not in _OPS:
        raise ValueError(f"explain/op: must be one of {', '.join(_OPS)}, and is {op!r}; choose one")
    try:
        call = inspect.signature(_OPS[op]).bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"explain/arguments: {error}; give those of a call of {op}") from None
    call.apply_defaults()
    if isinstance(scales := call.arguments.get("scales"), Tensor):
        edges_between(op, scales, call.arguments["rule"])
        call.arguments["scales"] = scales.tolist()  # the call reads its numbers, which a fake tensor does not have
    _check(op, call)
    given: dict[str, Any] = {
        name: pair_of(op, name, value) if name in _PAIRS else value for name, value in call.arguments.items()
    }
    device = next(iter(given.values())).device
    if device.type == "meta":
        return f"{op}: no kernel, the tensors are on the meta device"
    if op == "gaussian_indexes" and device.type == "cuda":
        return f"{op}: torch.bucketize"
    if op == "factorized_likelihood" and device.type != "cpu":
        raise RuntimeError(backends.no_kernels(op, device))
    backend = backends.serving(op, device) if op in backends.OPS else "cpu"
    line = f"{op}: {backend} backend"
    if (op, backend) == ("deform_conv2d", "triton"):
        return f"{line}, {backends.triton_kernels(op).explain(**given)}"
    if (op, backend) == ("ldcn", "cuda"):
        read = ("x", "offset", "mask", "kernel_size", "stride")
        return f"{line}\n{ldcn_cuda_kernels.explain(*(given[name] for name in read))}"
    return line


def _check(op: str, call: inspect.BoundArguments) -> None:
    """Makes the call with tensors on the meta device, which have shape, dtype and strides, and no numbers."""
    first, *_ = call.arguments
    device = getattr(call.arguments[first], "device", None)

    def meta(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [meta(name, v) for v in value] if any(isinstance(v, Tensor) for v in value) else value
        if not isinstance(value, Tensor):
            return value
        if device and value.device != device:
            raise ValueError(f"{op}/{name}: must be on {first}'s device {device}, and is on {value.device}; move it")
        return value.to("meta")

    _OPS[op](**{name: meta(name, value) for name, value in call.arguments.items()})
