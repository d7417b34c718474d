"""Device and processes of a run: a GPU or the CPU, one process or several under torchrun, managed by `accelerate`."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from torch import nn

from dkic.errors import DkicError
from dkic.models.codec_network import CodecNetwork
from dkic.training.device import DeviceName, device_for

T = TypeVar("T")


def accelerator_for(device: DeviceName | None = None, freezes: bool = False) -> Accelerator:
    """Returns the `Accelerator` of this process.

    Args:
        device: see `device_for`.
        freezes: whether some parameters get no gradient in some steps.

    Raises:
        DkicError: see `device_for`.
    """
    on_cpu = device_for(device).type == "cpu"
    if on_cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # accelerate would set another number
    return Accelerator(
        cpu=on_cpu,
        # accelerate's autocast would include the entropy model; see autocast_transforms.
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=freezes),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # the main process lists up to a million photographs first
        ],
    )


def made_once(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """Calls `make` on the main process and broadcasts the result to all processes.

    Raises:
        DkicError: `make` raised it; it is raised on all processes.
    """
    made: list[T | DkicError | None] = [None]
    if accelerator.is_main_process:
        try:
            made[0] = make()
        except DkicError as error:
            made[0] = error
    broadcast_object_list(made)
    if isinstance(made[0], DkicError):
        raise made[0]
    return made[0]  # type: ignore[return-value]


def leave() -> None:
    """Destroys the process group, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def autocast_transforms(model: CodecNetwork, device: torch.device) -> None:
    """Enables bfloat16 autocast in g_a, except its last layer, and in g_s, in place.

    y, the entropy model, likelihoods, rate and discriminator remain float32: y is rounded to integers, and above 64 neighboring
    bfloat16 values are 1/2 or more apart.
    """
    _autocast(model.g_a, device, True)
    g_a: Any = model.g_a
    _autocast(g_a.head if model.variable_rate else g_a[-1], device, False)
    _autocast(model.g_s, device, True)


def _autocast(module: nn.Module, device: torch.device, enabled: bool) -> None:
    """Wraps a module's forward in bfloat16 autocast, or disables autocast in it; the output is float32."""
    forward = module.forward

    def wrapped(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled):
            return forward(x if enabled else x.float(), *more).float()

    module.forward = wrapped
