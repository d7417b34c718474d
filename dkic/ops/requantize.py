"""From the integers of a convolution to those of the next layer."""

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops.autograd import has_tangent
from dkic.ops.schemas import library


def round_ste(t: Tensor) -> Tensor:
    """Rounded half to even; the gradient, of reverse and forward mode, passes straight through."""
    return t + (t.round() - t).detach() if t.requires_grad or has_tangent(t) else t.round()


def requantize(total: Tensor, bias: Tensor | None, multiplier: Tensor, low: int, high: int) -> Tensor:
    """clamp(round((round(total) + bias) * multiplier), low, high), each rounded half to even; differentiable as if not rounded.

    One float32 sum (of int32: an exact sum, rounded to float32 once) and one float32 product: the same on every machine.

    Args:
        total: `[N, C, H, W]`, float32 or float64, of integers to within 1/2; or int32, where they may exceed 2^24.
        bias, multiplier: float32, `[C]` or of one element; bias of integers.

    Returns:
        float32 `[N, C, H, W]`.
    """
    channels = total.shape[1]
    multiplier = multiplier.expand(channels)
    bias = None if bias is None else bias.expand(channels)
    if total.dtype != torch.int32:
        # Rounded before it is cast: between 2^22 and 2^24 the cast would take 5.49 for 5.5, and that becomes 6.
        total = total if total.dtype == torch.float32 else round_ste(total).float()
        tensors = (total, multiplier) if bias is None else (total, bias, multiplier)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors) or has_tangent(*tensors)
        if total.device.type == "cpu" and not learns and backends.cpu_runs():
            return torch.ops.dkic.requantize(total, bias, multiplier, low, high)
    return _plain(total, bias, multiplier, low, high)


def _plain(total: Tensor, bias: Tensor | None, multiplier: Tensor, low: int, high: int) -> Tensor:
    bias = None if bias is None else bias.view(-1, 1, 1)
    if total.dtype == torch.int32:
        total = (total if bias is None else total + bias.to(torch.int32)).float()
    else:
        total = round_ste(total) if bias is None else round_ste(total) + bias
    return round_ste(total * multiplier.view(-1, 1, 1)).clamp(low, high)


@torch.library.register_fake("dkic::requantize", lib=library)
def _fake(total, bias, multiplier, low, high):
    return torch.empty_like(total, memory_format=torch.channels_last)
