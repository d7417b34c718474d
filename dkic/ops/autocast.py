"""The native ops under `torch.autocast`, on the CPU and on CUDA."""

from collections.abc import Callable

import torch
from torch import Tensor

from dkic.ops.schemas import library


def register(op: str, call: Callable[..., Tensor]) -> None:
    """Defines what a call of dkic::`op` does under autocast.

    Args:
        op: an op of one overload.
        call: gets the device's type, "cpu" or "cuda", and the op's arguments; casts them and calls the op. Autocast is off in it.
    """
    for device, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        _register(op, call, device, key)


def _register(op: str, call: Callable[..., Tensor], device: str, key: str) -> None:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def kernel(*arguments):
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return call(device, *arguments)

    library.impl(op, kernel, key)
