"""Schemas of the native ops. Native code implements `<op>` and `<op>_backward`; fakes, autograd and autocast are in Python."""

import torch

library = torch.library.Library("dkic", "DEF")

library.define(
    "ldcn(Tensor x, Tensor offset, Tensor? mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation) -> Tensor"
)
# need_*: gradients wanted; the others come back empty. The order is that of the results.
library.define(
    "ldcn_backward(Tensor grad_y, Tensor x, Tensor offset, Tensor? mask, int[2] kernel_size, int[2] stride, int[2] padding, "
    "int[2] dilation, bool need_x, bool need_offset, bool need_mask, bool deterministic) -> (Tensor, Tensor, Tensor)"
)

library.define(
    "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int[2] stride, int[2] padding, "
    "int[2] dilation) -> Tensor"
)
library.define(
    "deform_conv2d_backward(Tensor grad_y, Tensor input, Tensor offset, Tensor weight, Tensor? mask, int[2] stride, "
    "int[2] padding, int[2] dilation, bool need_input, bool need_offset, bool need_weight, bool need_bias, bool need_mask, "
    "bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
