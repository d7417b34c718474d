"""Requantization: integer sums of a convolution to the integer activations of the next layer."""

import torch
from torch import Tensor

from dkic.ops import backends
from dkic.ops.autograd import has_tangent
from dkic.ops.schemas import library


def round_ste(t: Tensor) -> Tensor:
    """Rounds half to even, with a straight-through gradient in reverse and forward mode."""
    return t + (t.round() - t).detach() if t.requires_grad or has_tangent(t) else t.round()


def requantize(total: Tensor, bias: Tensor | None, multiplier: Tensor, low: int, high: int) -> Tensor:
    """clamp(round((round(total) + bias) * multiplier), low, high), rounded half to even, with straight-through gradients.

    One float32 addition (for int32: an exact addition, then one rounding to float32) and one float32 multiplication: bit-exact
    on all machines.

    Args:
        total: `[N, C, H, W]`, float32 or float64, within 1/2 of integers; or int32, for integers that may exceed 2^24.
        bias, multiplier: float32, `[C]` or one element; bias holds integers.

    Returns:
        float32 `[N, C, H, W]`.
    """
    channels = total.shape[1]
    multiplier = multiplier.expand(channels)
    bias = None if bias is None else bias.expand(channels)
    if total.dtype != torch.int32:
        # Rounded before the cast: between 2^22 and 2^24, the cast would round a fraction of 0.49 to 0.5, and that rounds up.
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
