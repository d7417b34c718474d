"""Memory layouts of 4-d tensors."""

import torch
from torch import Tensor


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def channel_slice(t: Tensor) -> Tensor:
    return torch.cat([t.new_full(t.shape, 7), t, t.new_full(t.shape, 8)], 1)[:, t.shape[1] : 2 * t.shape[1]]


def channels_last_slice(t: Tensor) -> Tensor:
    around = channels_last(torch.cat([t.new_full(t.shape, 7), t, t.new_full(t.shape, 8)], 1))
    return around[:, t.shape[1] : 2 * t.shape[1]]


def every_second(t: Tensor) -> Tensor:
    return torch.stack([t, t.new_full(t.shape, 7)], -1).flatten(3)[..., ::2]


def rows_and_columns_swapped(t: Tensor) -> Tensor:
    return t.transpose(2, 3).contiguous().transpose(2, 3)


LAYOUTS = [channels_last, channel_slice, channels_last_slice, every_second, rows_and_columns_swapped]
