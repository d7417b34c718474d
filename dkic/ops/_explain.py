"""Which backend and which kernels serve a call of an op."""

import inspect
from typing import Any

from torch import Tensor

from dkic.ops import backends
from dkic.ops._deform_conv2d import deform_conv2d
from dkic.ops.deform_arguments import pair_of


def explain(op: str, *arguments: Any, **options: Any) -> str:
    """Which backend serves a call of an op and, of `deform_conv2d` on a GPU, its kernels and their tiles. Runs nothing.

        print(dkic.ops.explain("deform_conv2d", x, offset, weight, padding=1))

    Args:
        op: "ldcn", "deform_conv2d", "gaussian_likelihood" or "gaussian_symbols".
        arguments, options: those of the op's call; without a tensor among them it is an error.

    Returns:
        One line, or several; no line break at the end. Tiles are defaults by compute capability, or tuned: `python -m
        benchmarks.tune_deform_conv2d` times them for a shape and stores them in dkic's cache folder.

    Raises:
        ValueError: there is no such op, or no tensor.
        RuntimeError: no backend serves the tensors' device; the message says what to do.
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
