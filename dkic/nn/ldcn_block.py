"""LDCN block: a residual layer whose kernel is predicted from its input."""

from typing import Literal, get_args

from torch import Tensor, nn

from dkic.errors import DkicError
from dkic.ops import ldcn

Mask = Literal["sigmoid", "softmax", "linear", "none"]
MASKS: tuple[Mask, ...] = get_args(Mask)


def plus_branch(x: Tensor, branch: Tensor) -> Tensor:
    """x + branch, computed in place in branch: allocating the sum of a large image would cost more than the addition.

    Where autocast gave branch a lower precision than x, the sum is a new tensor with the dtype of x.
    """
    return branch.add_(x) if branch.dtype == x.dtype else x + branch


class LDCNBlock(nn.Module):
    """x + project(ldcn(value(x), offset(x), mask(x))): a dynamic kernel with weights shared by all taps.

    Lite DCN: the deformable aggregation of DCNv4, in which taps have no weight matrices. value and project are 1x1 convolutions.
    offset and mask come from a depthwise 3x3 convolution and a 1x1 convolution, offset_mask. The weight of offset_mask is
    initialized to zero, so training starts from an undeformed kernel that is the same at every position.

    Args:
        channels: C of x `[N, C, H, W]` and of the result.
        groups: LDCN groups; must divide channels.
        kernel_size: taps along each side; odd.
        mask: how taps are weighted: "linear" (not bounded, as in DCNv4), "sigmoid" (0 to 1), "softmax" over the taps, or "none"
            (ones). "linear" is initialized to a random kernel for each group, uniform in +-1/kernel_size (the bound of a
            depthwise convolution of this size): with masks of 0, no parameter before the ReLU would get a gradient. The others
            are initialized to equal weights, a box filter, which learns more slowly.
        residual: add x to the result.
        relu: apply a ReLU between the aggregation and project. Without it, project and value could be merged into one linear map.

    Raises:
        DkicError: groups, kernel_size or mask is invalid.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        kernel_size: int = 3,
        mask: Mask = "linear",
        residual: bool = True,
        relu: bool = True,
    ) -> None:
        super().__init__()
        if groups < 1:
            raise DkicError(f"LDCNBlock/groups: is {groups}; give at least 1")
        if channels % groups:
            raise DkicError(f"LDCNBlock/groups: {groups} does not divide {channels} channels; give one that does")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise DkicError(f"LDCNBlock/kernel_size: is {kernel_size}; give an odd number")
        if mask not in MASKS:
            raise DkicError(f"LDCNBlock/mask: is {mask!r}; give {', '.join(MASKS[:-1])} or {MASKS[-1]}")
        self.groups, self.kernel_size, self.mask, self.residual, self.relu = groups, kernel_size, mask, residual, relu
        self.taps = groups * kernel_size**2
        self.value, self.depthwise, self.offset_mask, self.project = self._convolutions(channels)
        for parameter in self.offset_mask.parameters():
            nn.init.zeros_(parameter)
        if mask == "linear":
            assert self.offset_mask.bias is not None
            nn.init.uniform_(self.offset_mask.bias[self.taps * 2 :], -1 / kernel_size, 1 / kernel_size)

    def _convolutions(self, channels: int) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return (
            nn.Conv2d(channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, self.taps * (2 if self.mask == "none" else 3), 1),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.aggregate(x)
        y = self.project(y.relu_() if self.relu else y)
        return plus_branch(x, y) if self.residual else y

    def aggregate(self, x: Tensor) -> Tensor:
        """The aggregation without project and skip: ldcn(value(x), offset(x), mask(x)), `[N, C, H, W]`."""
        offset_mask = self.offset_mask(self.depthwise(x))
        offset, mask = offset_mask[:, : self.taps * 2], offset_mask[:, self.taps * 2 :]
        pad = self.kernel_size // 2
        return ldcn(self.value(x), offset, self._weights(mask), kernel_size=self.kernel_size, padding=pad)

    def _weights(self, predicted: Tensor) -> Tensor | None:
        if self.mask == "sigmoid":
            return predicted.sigmoid()
        if self.mask == "softmax":
            return predicted.unflatten(1, (self.groups, -1)).softmax(2).flatten(1, 2)
        return predicted if self.mask == "linear" else None

    def extra_repr(self) -> str:
        kernel = f"groups={self.groups}, kernel_size={self.kernel_size}, mask={self.mask!r}"
        return f"{kernel}, residual={self.residual}, relu={self.relu}"
