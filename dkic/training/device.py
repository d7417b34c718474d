"""The device of training: a GPU or the CPU."""

from typing import Literal

import torch

from dkic.errors import DkicError
from dkic.ops import backends

DeviceName = Literal["cpu", "cuda"]


def device_for(name: DeviceName | None = None) -> torch.device:
    """Returns the device of a run.

    Args:
        name: "cpu" or "cuda"; None: a GPU if there is one, else the CPU. CUDA_VISIBLE_DEVICES or torchrun selects the GPU.

    Raises:
        DkicError: there is no such device, or an op that training needs has no kernels for it in this installation.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DkicError("--device cuda: torch finds no GPU here; train with --device cpu, or see what `dkic doctor` says")
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    for op in ("ldcn", "gaussian_likelihood"):
        if reason := backends.op_unavailable_reason(op, device):
            raise DkicError(f"{reason}; or train with --device cpu")
    return device
