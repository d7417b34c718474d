"""DCNv3's and DCNv4's order of offsets and masks, converted to that of `dkic.ops.ldcn`."""

import math

import torch
from torch import Tensor, nn

from dkic.ops.deform_arguments import ArgumentValueError, Sizes


class TapOrder(nn.Module):
    """Reorders channels of offsets and masks, and applies DCNv3's offset_scale and remove_center to the offsets.

    DCNv3 and DCNv4 store (x, y) per tap, taps along w first, without the center tap where remove_center is set; ldcn takes
    (dy, dx) per tap, taps along h first, all of them. Their tap (i along w, j along h) samples at

        x = ow * stride - pad + c + (i * dilation - c + offset_x) * offset_scale,    c = dilation * (kernel - 1) // 2

    and y likewise, which is ldcn's position for an offset of offset_x * offset_scale + (i * dilation - c) * (offset_scale - 1).
    This is affine in the offset. A layer that predicts offsets therefore converts its weight and bias once a call, and the
    activations are never copied. A removed center tap is sampled at infinity, where a sample is 0 with gradient 0.

    Args:
        name: what error messages begin with.
        group: number of groups G, each with offsets and masks of its own.
        kernel_size, dilation: (height, width).
        offset_scale, remove_center: as in DCNv3.
        packed: the order of channels is, per group, offsets then masks (DCNv4), in one tensor; False: offsets and masks are two
            tensors (DCNv3).

    Raises:
        ArgumentValueError: remove_center of a kernel that is not square and odd.
    """

    offset_rows: Tensor
    mask_rows: Tensor
    distance: Tensor
    removed: Tensor

    def __init__(
        self, name: str, group: int, kernel_size: Sizes, dilation: Sizes, offset_scale: float, remove_center: bool, packed: bool
    ) -> None:
        super().__init__()
        (kh, kw), (dh, dw) = kernel_size, dilation
        if remove_center and (kh != kw or kh % 2 == 0):
            raise ArgumentValueError(f"{name}: remove_center needs a square kernel of odd size, and kernel_size is {kernel_size}")
        self.offset_scale, self.remove_center = offset_scale, remove_center
        center = kh * kw // 2 if remove_center else None
        self.taps = kh * kw - remove_center
        self.offset_channels, self.mask_channels = group * self.taps * 2, group * self.taps

        # Of their tap number; the removed center tap takes another one's channel, whose value is not used.
        theirs = [i * kh + j for j in range(kh) for i in range(kw)]
        stored = [tap - (center is not None and tap > center) if tap != center else 0 for tap in theirs]
        offset_step, mask_step, mask_first = (3 * self.taps,) * 2 + (2 * self.taps,) if packed else (2 * self.taps, self.taps, 0)
        offset_rows = [g * offset_step + 2 * tap + axis for g in range(group) for tap in stored for axis in (1, 0)]
        mask_rows = [mask_first + g * mask_step + tap for g in range(group) for tap in stored]
        # Distances of the taps from the center, as (y, x): integers, so exact in every dtype.
        distance = [(j * dh - dh * (kh - 1) // 2, i * dw - dw * (kw - 1) // 2) for j in range(kh) for i in range(kw)]
        self._hold("offset_rows", torch.tensor(offset_rows))
        self._hold("mask_rows", torch.tensor(mask_rows))
        self._hold("distance", torch.tensor(distance * group, dtype=torch.float32).flatten())
        self._hold("removed", torch.tensor([tap == center for tap in theirs] * group))

    def _hold(self, name: str, t: Tensor) -> None:
        self.register_buffer(name, t, persistent=False)

    def offset_weight(self, weight: Tensor) -> Tensor:
        """Rows `[G*K*2, C]` that predict ldcn's offsets, but for their bias."""
        return weight[self.offset_rows] * self.offset_scale

    def offsets(self, t: Tensor) -> Tensor:
        """ldcn's offsets of a tensor whose last dimension holds theirs: `[..., G*K*2]`. Also converts a bias."""
        t = t.index_select(-1, self.offset_rows) * self.offset_scale + self.distance.to(t.dtype) * (self.offset_scale - 1)
        return t.masked_fill(self.removed.repeat_interleave(2), math.inf) if self.remove_center else t

    def masks(self, t: Tensor, removed: float = 0.0) -> Tensor:
        """ldcn's masks of a tensor whose last dimension holds theirs: `[..., G*K]`, removed taps as given. Also of a bias."""
        t = t.index_select(-1, self.mask_rows)
        return t.masked_fill(self.removed, removed) if self.remove_center else t

    def mask_weight(self, weight: Tensor) -> Tensor:
        """Rows `[G*K, C]` that predict ldcn's masks, but for their bias."""
        return weight[self.mask_rows]
