"""DCNv3 and DCNv4 in plain PyTorch, with their original channel order: references for dkic's."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, linear


def aggregation(
    input: Tensor, offset: Tensor, mask: Tensor, kernel_size, stride, pad, dilation, group: int, scale: float, remove_center: bool
) -> Tensor:
    """Of NHWC tensors; offset and mask are [N, Ho, Wo, G, P, 2] and [N, Ho, Wo, G, P], (x, y), taps along w first."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel_size, stride, pad, dilation
    n, h, w, c = input.shape
    ho, wo = offset.shape[1:3]
    images = input.reshape(n, h, w, group, c // group)
    taps = [(i, j) for i in range(kw) for j in range(kh) if not (remove_center and (i, j) == (kw // 2, kh // 2))]
    rows, columns = torch.arange(ho).view(ho, 1).double(), torch.arange(wo).double()
    y = torch.zeros(n, ho, wo, group, c // group, dtype=input.dtype)
    for g in range(group):
        for tap, (i, j) in enumerate(taps):
            center_x, center_y = dw * (kw - 1) // 2, dh * (kh - 1) // 2
            x_at = columns * sw - pw + center_x + (i * dw - center_x + offset[:, :, :, g, tap, 0]) * scale
            y_at = rows * sh - ph + center_y + (j * dh - center_y + offset[:, :, :, g, tap, 1]) * scale
            grid = torch.stack([(2 * x_at + 1) / w - 1, (2 * y_at + 1) / h - 1], -1)
            sampled = grid_sample(images[:, :, :, g].permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)
            y[:, :, :, g] = y[:, :, :, g] + sampled * mask[:, :, :, g, tap, None]
    return y.flatten(3)


def dcnv3(m, input: Tensor) -> Tensor:
    """The forward of InternImage's module, of the parameters of m."""
    n, h, w, c = input.shape
    x = linear(input, m.input_proj.weight, m.input_proj.bias)
    features = m.dw_conv(input.permute(0, 3, 1, 2))
    offset = linear(features, m.offset.weight, m.offset.bias).view(n, h, w, m.group, -1, 2)
    mask = linear(features, m.mask.weight, m.mask.bias).view(n, h, w, m.group, -1).softmax(-1)
    y = aggregation(x, offset, mask, *_geometry(m))
    if m.center_feature_scale:
        gate = linear(features, m.center_feature_scale_proj_weight, m.center_feature_scale_proj_bias).sigmoid()
        gate = gate.repeat_interleave(c // m.group, -1)
        y = y * (1 - gate) + x * gate
    return linear(y, m.output_proj.weight, m.output_proj.bias)


def dcnv4(m, input: Tensor, shape: tuple[int, int]) -> Tensor:
    """The forward of FlashInternImage's module, of the parameters of m."""
    n, length, c = input.shape
    h, w = shape
    features = input
    if m.offset_mask_dw is not None:
        features = m.offset_mask_dw(input.view(n, h, w, c).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(n, length, c)
    x = input if m.without_pointwise else linear(input, m.value_proj.weight, m.value_proj.bias)
    x = x.view(n, h, w, c)
    packed = linear(features, m.offset_mask.weight, m.offset_mask.bias).view(n, h, w, -1)
    taps = m.kernel_size**2 - m.remove_center
    offset, mask = unpacked(packed, m.group, taps)
    y = aggregation(x, offset, mask, *_geometry(m))
    if m.center_feature_scale:
        gate = linear(y, m.center_feature_scale_proj_weight, m.center_feature_scale_proj_bias).sigmoid()
        gate = gate.repeat_interleave(c // m.group, -1)
        y = y * (1 - gate) + x * gate
    y = y.view(n, length, c)
    return y if m.without_pointwise else linear(y, m.output_proj.weight, m.output_proj.bias)


def unpacked(packed: Tensor, group: int, taps: int) -> tuple[Tensor, Tensor]:
    """DCNv4's packed channels as offsets [N, Ho, Wo, G, P, 2] and masks [N, Ho, Wo, G, P]."""
    by_group = packed[..., : group * taps * 3].unflatten(-1, (group, taps * 3))
    return by_group[..., : taps * 2].unflatten(-1, (taps, 2)), by_group[..., taps * 2 :]


def _geometry(m):
    return *((v, v) for v in (m.kernel_size, m.stride, m.pad, m.dilation)), m.group, m.offset_scale, m.remove_center
