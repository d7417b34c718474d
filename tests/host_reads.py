"""Fails where code reads a tensor from the host, which on a GPU waits for all kernels and can't be captured in a CUDA graph."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostReads(TorchDispatchMode):
    """Within it, `.item()`, a tensor as a condition, and copies from another device to the CPU raise AssertionError."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func.overloadpacket is not torch.ops.aten._local_scalar_dense, "reads a number from the host"
        if func.overloadpacket is torch.ops.aten._to_copy and args[0].device.type != "cpu":
            assert torch.device(kwargs.get("device") or args[0].device).type != "cpu", "copies a tensor to the CPU"
        return func(*args, **kwargs)
