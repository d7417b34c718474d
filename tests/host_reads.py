"""Fails where code reads a tensor from the host, which on a GPU waits for all kernels and can't be captured in a CUDA graph."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class NoHostReads(TorchDispatchMode):
    """Within it, these raise AssertionError: reading a number from a tensor (`.item()`, a tensor as a condition), results whose
    shape depends on values (`nonzero`, a mask as an index), and copies between the CPU and another device, both ways."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        op = func.overloadpacket
        assert torch.Tag.data_dependent_output not in func.tags, f"{op} reads a number from the host"
        if op in INDEXING:
            assert not any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]), (
                f"{op} counts a mask's elements"
            )
        else:
            assert torch.Tag.dynamic_output_shape not in func.tags, f"{op} waits for the shape of its result"
        if op in COPIES:
            source, target = (args[1], args[0]) if op is torch.ops.aten.copy_ else (args[0], kwargs.get("device"))
            source = source.device
            target = target.device if isinstance(target, Tensor) else torch.device(target or source)
            assert (source.type == "cpu") == (target.type == "cpu"), f"{op} copies a tensor from {source} to {target}"
        return func(*args, **kwargs)
