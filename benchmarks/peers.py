"""What dkic is timed against: other people's functions, called so that they compute the same thing."""

from torch import Tensor
from torchvision.ops import deform_conv2d


def torchvision_ldcn(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, **geometry) -> Tensor:
    """`dkic.ops.ldcn` as torchvision has it: a deformable convolution with one weight group per channel.

    Args:
        weight: ones `[C, 1, kh, kw]`; they stand for nothing, but torchvision can't do without.
        geometry: kernel_size (which follows from weight) and stride, padding, dilation.
    """
    geometry.pop("kernel_size", None)
    return deform_conv2d(x, offset, weight, mask=mask, **geometry)
