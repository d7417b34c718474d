"""Converts the order of offsets and masks of DCNv3 and DCNv4 to that of `dkic.ops.ldcn`."""

import math

import torch
from torch import Tensor

from dkic.nn.constant_buffers import ConstantBuffers
from dkic.ops.deform_arguments import ArgumentValueError, Sizes


class TapOrder(ConstantBuffers):
    """Reorders channels of offsets and masks, and applies DCNv3's offset_scale and remove_center to the offsets.

    DCNv3 and DCNv4 store (x, y) per tap, taps along w first, without the center tap if remove_center is set. ldcn expects
    (dy, dx) per tap, taps along h first, with the center tap. Tap (i along w, j along h) of DCNv3 samples at

        x = ow * stride - pad + c + (i * dilation - c + offset_x) * offset_scale,    c = dilation * (kernel - 1) // 2

    and at y likewise. ldcn samples there for the offset offset_x * offset_scale + (i * dilation - c) * (offset_scale - 1).
    This is affine in the offset, so a layer that predicts offsets converts its weight and bias, and never copies activations.
    A removed center tap is sampled at infinity, where the sample and its gradient are 0.

    Args:
        name: prefix of error messages.
        group: number of groups G, each with offsets and masks of its own.
        kernel_size, dilation: (height, width).
        offset_scale, remove_center: as in DCNv3.
        packed: the order of channels is, per group, offsets then masks (DCNv4), in one tensor; False: offsets and masks are two
            tensors (DCNv3).
        device: of the tensors that are reordered; None: the default device.

    Raises:
        ArgumentValueError: remove_center of a kernel that is not square and odd.
    """

    def __init__(
        self,
        name: str,
        group: int,
        kernel_size: Sizes,
        dilation: Sizes,
        offset_scale: float,
        remove_center: bool,
        packed: bool,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        (kh, kw), (dh, dw) = kernel_size, dilation
        if remove_center and (kh != kw or kh % 2 == 0):
            raise ArgumentValueError(f"{name}/remove_center: kernel_size is {kernel_size}; give a square kernel of odd size")
        self.offset_scale, self.remove_center = offset_scale, remove_center
        center = kh * kw // 2 if remove_center else None
        self.taps = kh * kw - remove_center
        self.offset_channels, self.mask_channels = group * self.taps * 2, group * self.taps

        # DCNv3's number of each of ldcn's taps, and the channel that stores it. A removed center tap reads channel 0; the value
        # is not used.
        numbers = [i * kh + j for j in range(kh) for i in range(kw)]
        stored = [tap - (center is not None and tap > center) if tap != center else 0 for tap in numbers]
        offset_step, mask_step, mask_first = (3 * self.taps,) * 2 + (2 * self.taps,) if packed else (2 * self.taps, self.taps, 0)
        offset_rows = [g * offset_step + 2 * tap + axis for g in range(group) for tap in stored for axis in (1, 0)]
        mask_rows = [mask_first + g * mask_step + tap for g in range(group) for tap in stored]
        # Distances of the taps from the center, as (y, x): integers, so exact in every dtype.
        distance = [(j * dh - dh * (kh - 1) // 2, i * dw - dw * (kw - 1) // 2) for j in range(kh) for i in range(kw)]
        self.hold_constant("offset_rows", torch.tensor(offset_rows, device="cpu"), device)
        self.hold_constant("mask_rows", torch.tensor(mask_rows, device="cpu"), device)
        distances = torch.tensor(distance * group, dtype=torch.float32, device="cpu").flatten()
        self.hold_constant("distance", distances, device)
        self.hold_constant("removed", torch.tensor([tap == center for tap in numbers] * group, device="cpu"), device)

    def offset_weight(self, weight: Tensor) -> Tensor:
        """Rows `[G*K*2, C]` of the weight that predict ldcn's offsets; `offsets` converts the bias."""
        return weight[self.constant("offset_rows", weight.device)] * self.offset_scale

    def offsets(self, t: Tensor) -> Tensor:
        """ldcn's offsets `[..., G*K*2]` from a tensor, or a bias, whose last dimension holds DCNv3's or DCNv4's."""
        rows, distance, removed = (self.constant(name, t.device) for name in ("offset_rows", "distance", "removed"))
        t = t.index_select(-1, rows) * self.offset_scale + distance.to(t.dtype) * (self.offset_scale - 1)
        return t.masked_fill(removed.repeat_interleave(2), math.inf) if self.remove_center else t

    def masks(self, t: Tensor, removed: float = 0.0) -> Tensor:
        """ldcn's masks `[..., G*K]` from a tensor, or a bias; a removed center tap has the mask `removed`."""
        t = t.index_select(-1, self.constant("mask_rows", t.device))
        return t.masked_fill(self.constant("removed", t.device), removed) if self.remove_center else t

    def mask_weight(self, weight: Tensor) -> Tensor:
        """Rows `[G*K, C]` of the weight that predict ldcn's masks; `masks` converts the bias."""
        return weight[self.constant("mask_rows", weight.device)]
