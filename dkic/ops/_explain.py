"""Description of the backend and kernels that run a call of an op."""

import inspect
from typing import Any

from torch import Tensor

from dkic.ops import backends
from dkic.ops._deform_conv2d import deform_conv2d
from dkic.ops.deform_arguments import pair_of


def explain(op: str, *arguments: Any, **options: Any) -> str:
    """Describes the backend of an op call and, for `deform_conv2d` on a GPU, its kernels and tiles. Launches no kernel.

        print(dkic.ops.explain("deform_conv2d", x, offset, weight, padding=1))

    Args:
        op: "ldcn", "deform_conv2d", "gaussian_likelihood" or "gaussian_symbols".
        arguments, options: positional and keyword arguments of the call, with at least one tensor.

    Returns:
        One or more lines, without a trailing newline. Tiles are defaults for the compute capability, or tuned: `python -m
        benchmarks.tune_deform_conv2d` measures them for a shape and stores them in dkic's cache folder.

    Raises:
        ValueError: `op` is unknown, or no argument is a tensor.
        RuntimeError: no backend supports the tensors' device; the message explains how to fix it.
    """
    if op not in backends.OPS:
        raise ValueError(f"explain/op: must be one of {', '.join(backends.OPS)}, and is {op!r}")
    tensors = [t for t in (*arguments, *options.values()) if isinstance(t, Tensor)]
    if not tensors:
        raise ValueError(f"explain/arguments: must include a tensor; give those of a call of {op}")
    device = tensors[0].device
    if device.type == "meta":
        return f"{op}: no kernel, the tensors are on the meta device"
    backend = backends.serving(op, device)
    line = f"{op}: {backend} backend"
    if (op, backend) != ("deform_conv2d", "triton"):
        return line
    call = inspect.signature(deform_conv2d).bind(*arguments, **options)
    call.apply_defaults()
    pairs = {name: pair_of(op, name, call.arguments[name]) for name in ("stride", "padding", "dilation")}
    return f"{line}, {backends.triton_kernels(op).explain(**{**call.arguments, **pairs})}"
