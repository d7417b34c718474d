"""DCNv4 module: deformable aggregation between pointwise projections, on tokens `[N, H*W, C]`."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dkic.nn.functional import aggregate
from dkic.nn.same_size import blend_with_center, check_same_size
from dkic.nn.tap_order import TapOrder


class DCNv4(nn.Module):
    """Deformable convolution v4 (arXiv 2401.06197): `DCNv4` of FlashInternImage on `dkic.ops.ldcn`.

    Constructor, forward, parameter names and initialization equal the original's, so state dicts load either way. It also runs
    on the CPU and in float64, and the channels of a group need not be a multiple of 16. Each call reorders the weight of the
    projection, so offsets, masks and images are never copied to another layout.

    Args:
        channels: C.
        kernel_size, stride, pad, dilation: ints. The output has the input's size: stride must be 1, and 2*pad must be
            dilation * (kernel_size - 1).
        group: number of groups G; must divide C. Each group has its own offsets and masks.
        offset_scale: scales the distance of every sample from the kernel's center.
        dw_kernel_size: kernel size of a depthwise convolution before the projection to offsets and masks; None: none.
        center_feature_scale: blend the output of each group with the input by a learned sigmoid gate.
        remove_center: the center tap is not sampled.
        output_bias: whether the output projection has a bias.
        without_pointwise: leave out the projections of input and output.
        act_layer, norm_layer: ignored; FlashInternImage passes them to every core operator.

    Raises:
        ValueError: group does not divide C, the output would not have the input's size, or remove_center is set for an even
            kernel_size.
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
        act_layer: str | None = None,
        norm_layer: str | None = None,
    ) -> None:
        super().__init__()
        check_same_size("DCNv4", channels, group, kernel_size, stride, pad, dilation)
        self.channels, self.group, self.offset_scale, self.remove_center = channels, group, offset_scale, remove_center
        self.kernel_size, self.stride, self.pad, self.dilation = kernel_size, stride, pad, dilation
        self.center_feature_scale, self.without_pointwise = center_feature_scale, without_pointwise
        sizes = (kernel_size, kernel_size), (dilation, dilation)
        self.order = TapOrder("DCNv4", group, *sizes, offset_scale, remove_center, packed=True)
        self.offset_mask_dw = None
        if dw_kernel_size is not None:
            padding = (dw_kernel_size - 1) // 2
            self.offset_mask_dw = nn.Conv2d(channels, channels, dw_kernel_size, padding=padding, groups=channels)
        predicted = self.order.offset_channels + self.order.mask_channels
        self.offset_mask = nn.Linear(channels, math.ceil(predicted / 8) * 8)
        if not without_pointwise:
            self.value_proj = nn.Linear(channels, channels)
            self.output_proj = nn.Linear(channels, channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes as the original does: Xavier uniform projections; zero biases, offsets and masks."""
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        for layer in () if self.without_pointwise else (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """input `[N, H*W, C]` -> `[N, H*W, C]`; shape: (H, W), or None for a square image.

        Raises:
            ValueError: input is not `[N, H*W, C]`, shape does not fit it, or shape is None and the image is not square.
        """
        if input.dim() != 3 or input.shape[2] != self.channels:
            raise ValueError(f"DCNv4/input: has shape {list(input.shape)}; give [N, H*W, {self.channels}]")
        n, length, _ = input.shape
        h, w = (math.isqrt(length),) * 2 if shape is None else shape
        if h * w != length:
            given = "is None, and the image is not square" if shape is None else f"is {(h, w)}"
            raise ValueError(f"DCNv4/shape: {given}; give (H, W) with H*W = {length}")

        image = input.unflatten(1, (h, w))
        features = image
        if self.offset_mask_dw is not None:
            features = self.offset_mask_dw(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        projected = image if self.without_pointwise else self.value_proj(image)
        offset, mask = self._offset_and_mask(features)
        y = aggregate(projected, offset, mask, self.kernel_size, self.stride, self.pad, self.dilation)
        if self.center_feature_scale:
            gate = linear(y, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blend_with_center(y, projected, gate)
        y = y.flatten(1, 2)
        return y if self.without_pointwise else self.output_proj(y)

    def _offset_and_mask(self, features: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.offset_mask
        weight = torch.cat([self.order.offset_weight(layer.weight), self.order.mask_weight(layer.weight)])
        bias = torch.cat([self.order.offsets(layer.bias), self.order.masks(layer.bias)])
        offset, mask = linear(features, weight, bias).split((weight.shape[0] * 2 // 3, weight.shape[0] // 3), -1)
        return offset, mask

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, group={self.group}, offset_scale={self.offset_scale}"
