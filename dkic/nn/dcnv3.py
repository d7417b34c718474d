"""DCNv3 module: deformable aggregation between pointwise projections, on NHWC images."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dkic.nn.functional import aggregate
from dkic.nn.same_size import blend_with_center, check_same_size
from dkic.nn.tap_order import TapOrder

_ACTIVATIONS = {"ReLU": lambda: nn.ReLU(inplace=True), "SiLU": lambda: nn.SiLU(inplace=True), "GELU": nn.GELU}


class _Permute(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def extra_repr(self) -> str:
        return str(self.dims)


def _norm(name: str, channels: int) -> nn.Sequential:
    """Normalization of an NCHW tensor, to NHWC. The indexes in the Sequential give InternImage's state dict keys."""
    to_nhwc = _Permute(0, 2, 3, 1)
    if name == "LN":
        return nn.Sequential(to_nhwc, nn.LayerNorm(channels, eps=1e-6))
    if name == "BN":
        return nn.Sequential(nn.BatchNorm2d(channels), to_nhwc)
    raise ValueError(f"DCNv3/norm_layer: is {name!r}; give LN or BN")


class DCNv3(nn.Module):
    """Deformable convolution v3 (InternImage, arXiv 2211.05778): `DCNv3` of InternImage on `dkic.ops.ldcn`.

    Constructor, forward, parameter names and initialization equal the original's, so state dicts load either way, also those of
    `DCNv3_pytorch`. Each call reorders the weights of the projections, so offsets, masks and images are never copied to another
    layout.

    Args:
        channels: C.
        kernel_size, stride, pad, dilation: ints. The output has the input's size: stride must be 1, and 2*pad must be
            dilation * (kernel_size - 1).
        dw_kernel_size: kernel size of the depthwise convolution before the projections to offsets and masks; None:
            kernel_size.
        group: number of groups G; must divide C. Each group has its own offsets and masks.
        offset_scale: scales the distance of every sample from the kernel's center.
        act_layer: "GELU", "SiLU" or "ReLU", after the depthwise convolution.
        norm_layer: "LN" or "BN", after the depthwise convolution.
        center_feature_scale: blend the output of each group with the input by a learned sigmoid gate.
        remove_center: the center tap is not sampled.

    Raises:
        ValueError: group does not divide C, the output would not have the input's size, remove_center is set for an even
            kernel_size, or act_layer or norm_layer is unknown.
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        dw_kernel_size: int | None = None,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        act_layer: str = "GELU",
        norm_layer: str = "LN",
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        check_same_size("DCNv3", channels, group, kernel_size, stride, pad, dilation)
        if act_layer not in _ACTIVATIONS:
            raise ValueError(f"DCNv3/act_layer: is {act_layer!r}; give one of {', '.join(_ACTIVATIONS)}")
        self.channels, self.group, self.offset_scale, self.remove_center = channels, group, offset_scale, remove_center
        self.kernel_size, self.stride, self.pad, self.dilation = kernel_size, stride, pad, dilation
        self.center_feature_scale = center_feature_scale
        sizes = (kernel_size, kernel_size), (dilation, dilation)
        self.order = TapOrder("DCNv3", group, *sizes, offset_scale, remove_center, packed=False)
        dw_kernel_size = kernel_size if dw_kernel_size is None else dw_kernel_size
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, dw_kernel_size, padding=(dw_kernel_size - 1) // 2, groups=channels),
            _norm(norm_layer, channels),
            _ACTIVATIONS[act_layer](),
        )
        self.offset = nn.Linear(channels, self.order.offset_channels)
        self.mask = nn.Linear(channels, self.order.mask_channels)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initializes as the original does: Xavier uniform projections; zero biases, offsets and mask logits."""
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        for t in (self.input_proj.bias, self.output_proj.bias, *self.offset.parameters(), *self.mask.parameters()):
            nn.init.zeros_(t)

    def forward(self, input: Tensor) -> Tensor:
        """input `[N, H, W, C]` -> `[N, H, W, C]`. Raises ValueError if input has another shape."""
        if input.dim() != 4 or input.shape[3] != self.channels:
            raise ValueError(f"DCNv3/input: has shape {list(input.shape)}; give [N, H, W, {self.channels}]")
        projected = self.input_proj(input)
        features = self.dw_conv(input.permute(0, 3, 1, 2))
        offset = linear(features, self.order.offset_weight(self.offset.weight), self.order.offsets(self.offset.bias))
        # A removed tap gets the logit -inf, so its mask is 0 and the softmax is over the other taps.
        logits = linear(features, self.order.mask_weight(self.mask.weight), self.order.masks(self.mask.bias, removed=-torch.inf))
        mask = logits.unflatten(-1, (self.group, -1)).softmax(-1).flatten(-2)
        y = aggregate(projected, offset, mask, self.kernel_size, self.stride, self.pad, self.dilation)
        if self.center_feature_scale:
            gate = linear(features, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blend_with_center(y, projected, gate)
        return self.output_proj(y)

    def extra_repr(self) -> str:
        return f"{self.channels}, kernel_size={self.kernel_size}, group={self.group}, offset_scale={self.offset_scale}"
