"""LPIPS for training (Zhang et al. 2018, v0.1): the values of the `lpips` package, with gradients that are always finite."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dkic.errors import DkicError, install
from dkic.losses.lpips_backbone import Net, load_backbone

# Added inside the square root: the gradient at a position where all features are 0 is then finite, unlike the package's.
_EPSILON = 1e-10


class LPIPS(nn.Module):
    """Perceptual distance of images: weighted squared differences of the features of a fixed network.

    Args:
        net: "alex", which results are usually reported with, or "vgg".
        backbone: file of the network's ImageNet weights; None: see `lpips_backbone.load_backbone`.
        check_values: whether values outside [0, 1] are refused. Reading them makes the host wait for a GPU.

    Raises:
        DkicError: there are no weights, or the `lpips` package, which contains the weights of the linear heads, is not installed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "alex", backbone: str | Path | None = None, *, check_values: bool = True) -> None:
        super().__init__()
        self.check_values = check_values
        self.backbone = load_backbone(net, backbone)
        for i, head in enumerate(_heads(net)):
            self.register_buffer(f"head_{i}", head)
        # For inputs in [-1, 1]; an input in [0, 1] becomes 2 x - 1.
        for name, numbers in (("shift", [-0.030, -0.088, -0.188]), ("scale", [0.458, 0.448, 0.450])):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(3, 1, 1))

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances `[N]`, differentiable in both images.

        Args:
            x, x_hat: RGB `[N, 3, H, W]`, floating-point values in [0, 1]; sides of at least 31 pixels ("alex") or 16 ("vgg").

        Raises:
            ValueError: the shapes differ, a side is too short, or, with check_values, a value is outside [0, 1].
            TypeError: the values are not floating-point.
        """
        if x.shape != x_hat.shape:
            shapes = f"{list(x.shape)} and {list(x_hat.shape)}"
            raise ValueError(f"LPIPS: x and x_hat have shapes {shapes}; give images of one shape")
        for name, t in (("x", x), ("x_hat", x_hat)):
            self._check(name, t)
        distance = x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
        dtype = next(self.backbone.parameters()).dtype  # may be a half type, for speed
        maps = (self.backbone(self.normalized(t).to(dtype, memory_format=torch.channels_last)) for t in (x, x_hat))
        for i, (a, b) in enumerate(zip(*maps, strict=True)):
            distance = distance + self.distances(i, a, b).mean((1, 2))
        return distance

    def normalized(self, x: Tensor) -> Tensor:
        """x `[N, 3, H, W]` in [0, 1] -> the backbone's input, of the same shape."""
        return (2 * x - 1 - self.shift) / self.scale

    def distances(self, i: int, a: Tensor, b: Tensor) -> Tensor:
        """Distance `[N, h, w]` at each position of the i-th compared feature maps a and b, `[N, C, h, w]`."""
        # [N, h, w, C]: gradients then have the memory format of the features, channels last.
        a, b = (t.permute(0, 2, 3, 1) for t in (a, b))
        return ((_unit(a) - _unit(b)).square() * self.get_buffer(f"head_{i}")).sum(-1)

    def _check(self, name: str, t: Tensor) -> None:
        side = self.backbone.min_side
        if t.ndim != 4 or t.shape[1] != 3 or min(t.shape[2:]) < side:
            raise ValueError(f"LPIPS/{name}: has shape {list(t.shape)}; give [N, 3, H, W] with sides of at least {side}")
        if not t.is_floating_point():
            raise TypeError(f"LPIPS/{name}: is {t.dtype}; give floating-point values in [0, 1]")
        if self.check_values and t.numel():
            low, high = (bound.item() for bound in t.detach().aminmax())
            if not (low >= 0 and high <= 1):  # NaN too
                raise ValueError(f"LPIPS/{name}: has values from {low:.6g} to {high:.6g}; give values in [0, 1]")


def _unit(features: Tensor) -> Tensor:
    """Features `[..., C]` with the vector of each position scaled to length 1; in float32 at least, also under autocast."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(-1, keepdim=True) + _EPSILON).rsqrt()


def _heads(net: Net) -> list[Tensor]:
    """Weights `[C]` of the five feature maps, fitted to human judgments by the authors of LPIPS."""
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise DkicError(f"LPIPS: the package lpips, which contains the trained heads, is not installed; {install('train')}")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]
