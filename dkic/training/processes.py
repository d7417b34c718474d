"""Where a recipe's run computes: on a GPU or the CPU, in one process or in several under torchrun, by `accelerate`."""

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
    """This process' part in the run.

    Args:
        device: see `device_for`, whose errors this has too.
        freezes: whether there are steps in which some parameters get no gradient.
    """
    on_cpu = device_for(device).type == "cpu"
    if on_cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # accelerate would choose another number
    return Accelerator(
        cpu=on_cpu,
        # Its autocast would be around the whole model, the entropy model too; see autocast_transforms.
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=freezes),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # while one process lists a million photographs
        ],
    )


def made_once(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """What the main process makes, or its DkicError, on every process."""
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
    """Ends what connects the processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def autocast_transforms(model: CodecNetwork, device: torch.device) -> None:
    """From now on g_a and g_s compute in bfloat16 where autocast does.

    But for g_a's last layer: y, the entropy model, likelihoods and the rate stay float32, as does the discriminator.
    A step of bfloat16 is 1/2 at 64 and above, and y is to be rounded to whole numbers.
    """
    _within(model.g_a, device, True)
    g_a: Any = model.g_a
    _within(g_a.head if model.variable_rate else g_a[-1], device, False)
    _within(model.g_s, device, True)


def _within(module: nn.Module, device: torch.device, enabled: bool) -> None:
    """Has a module computed with autocast to bfloat16, or in float32 in spite of it; its result is float32."""
    forward = module.forward

    def within(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled):
            return forward(x if enabled else x.float(), *more).float()

    module.forward = within
