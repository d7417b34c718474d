"""LPIPS for training (Zhang et al. 2018, v0.1): the values of the `lpips` package, with a gradient that is always finite."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dkic.errors import DkicError, install
from dkic.losses.lpips_backbone import Net, load_backbone

# Added inside the square root: its gradient at a pixel without features is then finite, unlike the package's.
_EPSILON = 1e-10


class LPIPS(nn.Module):
    """Perceptual distance of images, weighted sums of squared differences of a frozen network's features.

    Args:
        net: "alex", in which results are reported, or "vgg".
        backbone: the file of its ImageNet weights; None: see `lpips_backbone.load_backbone`.

    Raises:
        DkicError: no weights, or the `lpips` package, which contains the weights of the linear heads, is not installed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "alex", backbone: str | Path | None = None) -> None:
        super().__init__()
        self.backbone = load_backbone(net, backbone)
        for i, head in enumerate(_heads(net)):
            self.register_buffer(f"head_{i}", head)
        # For inputs in [-1, 1]; an input in [0, 1] becomes 2 x - 1.
        for name, numbers in (("shift", [-0.030, -0.088, -0.188]), ("scale", [0.458, 0.448, 0.450])):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32, device="cpu").reshape(3, 1, 1))

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances `[N]`, differentiable in both.

        Args:
            x, x_hat: RGB `[N, 3, H, W]`, values in [0, 1]; sides of at least 31 pixels ("alex") or 16 ("vgg").
        """
        if x.shape != x_hat.shape:
            raise ValueError(f"x and x_hat must have one shape, and have {list(x.shape)} and {list(x_hat.shape)}")
        for name, t in (("x", x), ("x_hat", x_hat)):
            self._check(name, t)
        distance = x.new_zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32))
        kept = next(self.backbone.parameters())  # may be a half type, for speed
        maps = (self.backbone(self.normalised(t).to(kept.dtype, memory_format=torch.channels_last)) for t in (x, x_hat))
        for i, (a, b) in enumerate(zip(*maps, strict=True)):
            distance = distance + self.distances(i, a, b).mean((1, 2))
        return distance

    def normalised(self, x: Tensor) -> Tensor:
        """x `[N, 3, H, W]` in [0, 1], as the backbone takes it."""
        return (2 * x - 1 - self.shift) / self.scale

    def distances(self, i: int, a: Tensor, b: Tensor) -> Tensor:
        """`[N, h, w]`, of the i-th maps of features that are compared, `[N, C, h, w]`; their mean is the distance by this map."""
        difference = (_unit(a) - _unit(b)).square()
        return (difference * self.get_buffer(f"head_{i}")).sum(1)

    def _check(self, name: str, t: Tensor) -> None:
        side = self.backbone.least_side
        if t.ndim != 4 or t.shape[1] != 3 or min(t.shape[2:]) < side:
            raise ValueError(f"{name} must be [N, 3, H, W] with sides of at least {side}, and is {list(t.shape)}")
        if not t.is_floating_point():
            raise TypeError(f"{name} must be floating-point with values in [0, 1], and is {t.dtype}")
        if t.numel():
            low, high = (bound.item() for bound in t.detach().aminmax())
            if not (low >= 0 and high <= 1):  # NaN too
                raise ValueError(f"{name} must have values in [0, 1], and has {low:.6g} to {high:.6g}")


def _unit(features: Tensor) -> Tensor:
    """Every pixel's features `[N, C, h, w]` scaled to length 1, in float32 at least, also under autocast."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features * (features.square().sum(1, keepdim=True) + _EPSILON).rsqrt()


def _heads(net: Net) -> list[Tensor]:
    """Weights `[C, 1, 1]` of the five maps of features, fitted to human judgments by the authors of LPIPS."""
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise DkicError(f"LPIPS needs the `lpips` package's trained heads; {install('train')}")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"].reshape(-1, 1, 1) for i in range(5)]
