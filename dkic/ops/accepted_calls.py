"""Which calls of ops had right arguments: one with tensors of the same shapes, dtypes and devices is not checked again.

Checks take 20 us of the host's time, as long as a GPU takes for a small kernel.
"""

from typing import Any

import torch
from torch import Tensor

Call = tuple[Any, ...] | None

_MOST = 4096
_accepted: set[Call] = set()


def call_of(*arguments: Any) -> Call:
    """What the checks of a call depend on, if they look at no more of a tensor than its shape, dtype and device.

    None where that can't be kept: in code that is being compiled, and for sizes that are symbols and arguments of a wrong type.
    """
    if torch.compiler.is_compiling():
        return None
    call = tuple(_key(argument) for argument in arguments)
    try:
        hash(call)
    except TypeError:
        return None
    return call


def _key(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype, argument.device
    return (bool, argument) if isinstance(argument, bool) else argument  # True equals 1, and is not always right where 1 is


def was_accepted(call: Call) -> bool:
    return call is not None and call in _accepted  # in this order: a compiled program would be bound to what the set holds


def accept(call: Call) -> None:
    """Notes that the arguments are right; only at the end of the checks."""
    if call is None:
        return
    if len(_accepted) >= _MOST:
        _accepted.clear()
    _accepted.add(call)
