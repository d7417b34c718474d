"""Shared by the DCNv3 and DCNv4 modules: the check of the geometry, and blending the output with the input."""

from torch import Tensor


def check_same_size(name: str, channels: int, group: int, kernel_size: int, stride: int, pad: int, dilation: int) -> None:
    """Raises ValueError unless group divides channels and the output has the input's size."""
    if group < 1 or channels < 1 or channels % group:
        raise ValueError(f"{name}/channels: is {channels} for group={group}; give a positive multiple of group")
    if stride != 1 or 2 * pad != dilation * (kernel_size - 1):
        raise ValueError(
            f"{name}: stride={stride} and pad={pad} give an output of another size than the input; give stride=1 and "
            f"pad=dilation * (kernel_size - 1) / 2, or use dkic.nn.functional.{name.lower()}"
        )


def blend_with_center(y: Tensor, projected: Tensor, gate: Tensor) -> Tensor:
    """Interpolates y and the projected input, both `[N, H, W, C]`, by the sigmoid of gate `[N, H, W, G]`: y at 0."""
    y_groups, projected_groups = (t.unflatten(-1, (gate.shape[-1], -1)) for t in (y, projected))
    return (y_groups + gate.sigmoid().unsqueeze(-1) * (projected_groups - y_groups)).flatten(-2)
