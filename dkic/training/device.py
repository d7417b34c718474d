"""What trains: a GPU or the CPU."""

from typing import Literal

import torch

from dkic.errors import DkicError
from dkic.ops import backends

DeviceName = Literal["cpu", "cuda"]


def device_for(name: DeviceName | None = None) -> torch.device:
    """The device that a run computes on; None: a GPU where there is one, else the CPU.

    Which GPU is up to CUDA_VISIBLE_DEVICES, or to torchrun.

    Raises:
        DkicError: no such device, or an op that training needs has no kernels for it here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DkicError("--device cuda: torch finds no GPU here; train with --device cpu, or see what `dkic doctor` says")
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    for op in ("ldcn", "gaussian_likelihood"):
        if reason := backends.op_unavailable_reason(op, device):
            raise DkicError(f"{reason}; or train with --device cpu")
    return device
