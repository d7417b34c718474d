"""The Inception network of FID and KID, from torch-fidelity. Its weights are read from local files and never downloaded."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dkic.cache import cache_folder
from dkic.errors import DkicError, install
from dkic.evaluation.codecs import Unavailable
from dkic.output_file import reason

FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE_NAME}"


def load_inception(file: Path | None = None) -> nn.Module:
    """Loads the Inception network on the CPU.

    Args:
        file: weights file; None: the first existing file of `cached_weights`.

    Returns:
        A module that maps uint8 images `[N, 3, H, W]` to a tuple with the features of FID and KID, float32 `[N, 2048]`.

    Raises:
        Unavailable: `file` is None, and torch-fidelity is not installed or there are no weights.
        DkicError: the weights file is not usable; or `file` is given and torch-fidelity is not installed.
    """
    if find_spec("torch_fidelity") is None:
        raise (DkicError if file else Unavailable)(f"torch-fidelity is not installed; {install('eval')}")
    path = file or next((path for path in cached_weights() if path.is_file()), None)
    if path is None:
        raise Unavailable(
            f"there are no weights of Inception; put {SOURCE} into {cached_weights()[-1].parent}, or name the file by --inception"
        )
    return _load(path)


def cached_weights() -> list[Path]:
    """Default paths of the weights, in search order: the cache of torch.hub (torch-fidelity's default) and dkic's cache."""
    return [Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME, cache_folder() / FILE_NAME]


def _load(path: Path) -> nn.Module:
    from torch_fidelity import FeatureExtractorInceptionV3

    layer = FeatureExtractorInceptionV3.get_default_feature_layer_for_metric("fid")  # the same layer for KID
    try:
        # torch-fidelity loads without weights_only; this load rejects files that contain code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(isinstance(value, Tensor) and value.isfinite().all() for value in state.values()):
            raise ValueError("other contents")
        return FeatureExtractorInceptionV3("inception-v3-compat", [layer], feature_extractor_weights_path=path)
    except OSError as error:
        raise DkicError(f"{path}: no weights that can be read ({reason(error)})") from None
    except Exception:  # torch.load raises many types, with long messages
        raise DkicError(f"{path}: does not hold the weights of torch-fidelity's Inception, {FILE_NAME}; give that file") from None
