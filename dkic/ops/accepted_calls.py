"""Cache of validated op calls: calls with the same shapes, dtypes, devices and options skip the argument checks.

The checks take 20 us on the host, as long as a small kernel on a GPU.
"""

from typing import Any

import torch
from torch import Tensor

Call = tuple[Any, ...] | None

_MOST = 4096
_accepted: set[Call] = set()


def call_of(*arguments: Any) -> Call:
    """Cache key of a call, for checks that read only shape, dtype and device of a tensor.

    None if the call cannot be cached: during compilation, and with symbolic sizes or other unhashable arguments.
    """
    if torch.compiler.is_compiling():
        return None
    call = tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in arguments)
    try:
        hash(call)
    except TypeError:
        return None
    return call


def was_accepted(call: Call) -> bool:
    return call is not None and call in _accepted  # in this order, so that torch.compile adds no guard on the set


def accept(call: Call) -> None:
    """Adds a call to the cache, after all checks have passed."""
    if call is None:
        return
    if len(_accepted) >= _MOST:
        _accepted.clear()
    _accepted.add(call)
