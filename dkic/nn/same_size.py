"""What DCNv3's and DCNv4's modules share: an output of the input's size, and its blending with the input."""

from torch import Tensor


def check_same_size(name: str, channels: int, group: int, kernel_size: int, stride: int, pad: int, dilation: int) -> None:
    """Raises ValueError unless group divides channels, and the geometry keeps the image's size."""
    if group < 1 or channels < 1 or channels % group:
        raise ValueError(f"{name}: channels must be a positive multiple of group, and is {channels} for group={group}")
    if stride != 1 or 2 * pad != dilation * (kernel_size - 1):
        raise ValueError(
            f"{name}: stride must be 1 and pad half of dilation * (kernel_size - 1), as the output must have the input's size, "
            f"and they are {stride} and {pad}; use dkic.nn.functional.{name.lower()} for other geometry"
        )


def blend_with_center(y: Tensor, projected: Tensor, gate: Tensor) -> Tensor:
    """y where the sigmoid of gate `[N, H, W, G]` is 0, the projected input where it is 1; both are `[N, H, W, C]`."""
    y_groups, projected_groups = (t.unflatten(-1, (gate.shape[-1], -1)) for t in (y, projected))
    return (y_groups + gate.sigmoid().unsqueeze(-1) * (projected_groups - y_groups)).flatten(-2)
