"""Deformable convolution layers: torchvision's, and mmcv's, which predicts its own offsets and masks."""

import math

import torch
from torch import Tensor, nn

from dkic.ops import deform_conv2d
from dkic.ops.deform_arguments import Pair, pair_of


class _DeformConv2d(nn.Module):
    """Parameters and geometry of a deformable convolution; the subclass initializes `weight` and `bias`."""

    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self._check_divides("groups", groups, in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        name = type(self).__name__
        self.kernel_size, self.stride = pair_of(name, "kernel_size", kernel_size), pair_of(name, "stride", stride)
        self.padding, self.dilation = pair_of(name, "padding", padding), pair_of(name, "dilation", dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)

    def _check_divides(self, name: str, number: int, **channels: int) -> None:
        for argument, count in channels.items():
            if number < 1 or count < 1 or count % number:
                wrong = f"is {count} for {name}={number}"
                raise ValueError(f"{type(self).__name__}/{argument}: {wrong}; give a positive multiple of {name}")

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1)):
            if getattr(self, name) != usual:
                shown += f", {name}={getattr(self, name)}"
        return shown if self.bias is not None else f"{shown}, bias=False"


class DeformConv2d(_DeformConv2d):
    """Deformable convolution with given offsets and masks: `torchvision.ops.DeformConv2d` on `dkic.ops.deform_conv2d`.

    Constructor, parameter names (`weight`, `bias`) and initialization equal torchvision's, so state dicts load either way.
    Supports `torch.jit.script`, `torch.compile` and `torch.export`.

    Args:
        in_channels: C of the input.
        out_channels: O of the output.
        kernel_size: an int or (height, width).
        stride, padding, dilation: an int or (height, width).
        groups: number of weight groups; must divide C and O. (The number of offset groups follows from the offset's shape.)
        bias: whether the output has a learned bias.

    Raises:
        ValueError: groups does not divide C and O.
        TypeError: kernel_size, stride, padding or dilation is neither an int nor a pair of ints.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes as torchvision does: uniform within 1 / sqrt(C / groups * kernel height * width)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """input `[N, C, H, W]`, offset `[N, G*K*2, Ho, Wo]` and mask `[N, G*K, Ho, Wo]` -> `[N, O, Ho, Wo]`.

        Semantics and errors are those of `dkic.ops.deform_conv2d`.
        """
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


class DeformConv2dPack(_DeformConv2d):
    """Deformable convolution that predicts offsets and masks from its input: mmcv's `ModulatedDeformConv2dPack` (DCNv2).

    A convolution of the same geometry, `conv_offset`, gives 3*G*K channels: the first 2*G*K are the offsets, (dy, dx) interleaved
    per tap; the sigmoid of the last G*K are the masks. It is initialized to zero, so initially the layer is a convolution with
    its taps halved. With `modulated=False` there are no masks: mmcv's `DeformConv2dPack` (DCNv1), which has no bias either.

    Constructor, parameter names (`weight`, `bias`, `conv_offset.weight`, `conv_offset.bias`) and initialization equal
    `ModulatedDeformConv2dPack`'s, so state dicts load either way. Supports `torch.jit.script`, `torch.compile` and
    `torch.export`.

    Args:
        in_channels: C of the input.
        out_channels: O of the output.
        kernel_size: an int or (height, width); K is their product.
        stride, padding, dilation: an int or (height, width).
        groups: number of weight groups; must divide C and O.
        deform_groups: number of offset groups G; must divide C.
        bias: whether the output has a learned bias.
        modulated: whether there are masks.

    Raises:
        ValueError: groups does not divide C and O, or deform_groups does not divide C.
        TypeError: kernel_size, stride, padding or dilation is neither an int nor a pair of ints.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        modulated: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self._check_divides("deform_groups", deform_groups, in_channels=in_channels)
        self.deform_groups, self.modulated = deform_groups, modulated
        self.offset_channels = 2 * deform_groups * math.prod(self.kernel_size)
        predicted = self.offset_channels // 2 * (3 if modulated else 2)
        self.conv_offset = nn.Conv2d(in_channels, predicted, self.kernel_size, self.stride, self.padding, self.dilation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes as mmcv does: weight uniform within 1 / sqrt(C * kernel height * width), all else zero."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        for t in (self.bias, self.conv_offset.weight, self.conv_offset.bias):
            if t is not None:
                nn.init.zeros_(t)

    def forward(self, input: Tensor) -> Tensor:
        """input `[N, C, H, W]` -> `[N, O, Ho, Wo]`, in the memory format of input."""
        predicted = self.conv_offset(input)
        offset = predicted[:, : self.offset_channels]
        mask = predicted[:, self.offset_channels :].sigmoid() if self.modulated else None
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self) -> str:
        groups = f", deform_groups={self.deform_groups}" if self.deform_groups != 1 else ""
        return super().extra_repr() + groups + ("" if self.modulated else ", modulated=False")
