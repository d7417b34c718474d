"""Registration of autocast rules for the native ops, on the CPU and on CUDA."""

from collections.abc import Callable

import torch
from torch import Tensor

from dkic.ops.schemas import library


def register(op: str, call: Callable[..., Tensor]) -> None:
    """Registers the autocast rule of dkic::`op`.

    Args:
        op: an op with one overload.
        call: called with the device type ("cpu" or "cuda") and the arguments of the op, with autocast disabled; casts the
            arguments and calls the op.
    """
    for device, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _register(op, call, device, key)


def _register(op: str, call: Callable[..., Tensor], device: str, key: str) -> None:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(*arguments):
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return call(device, *arguments)

    library.impl(op, kernel, key)
