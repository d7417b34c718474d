"""Complexity of a model: parameters, and multiply-accumulates per pixel of encoding and decoding."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dkic.models.presets import Config, network_of
from dkic.nn.ldcn_block import LDCNBlock


class Complexity(NamedTuple):
    """parameters: number of parameters. The others: kMAC per pixel of a 256x256 image; total counts shared networks once."""

    parameters: int
    encode: float
    decode: float
    total: float


def _macs(module: nn.Module, output: Tensor) -> int:
    pixels = output.shape[0] * output.shape[2] * output.shape[3]
    if isinstance(module, nn.Conv2d):
        return pixels * module.weight.numel()
    if isinstance(module, LDCNBlock):  # without its convolutions, which are modules too; a tap blends four corners per channel
        return pixels * module.kernel_size**2 * module.value.out_channels * 4
    return 0


def complexity(config: Config) -> Complexity:
    """Complexity of a model with this config, counted by hooks during a forward pass."""
    with torch.device("cpu"):
        model = network_of(config).float()
    counted = dict.fromkeys(("g_a", "g_s", "h_a", "h_s", "context"), 0)
    for part in counted:
        for module in getattr(model, part, nn.Module()).modules():  # a variable-rate model has no hyper-prior

            def count(module: nn.Module, _inputs: object, output: Tensor, part: str = part) -> None:
                counted[part] += _macs(module, output)

            if isinstance(module, nn.Conv2d | LDCNBlock):
                module.register_forward_hook(count)
    side = 256
    with torch.no_grad():
        x = torch.zeros(1, 3, side, side, dtype=torch.float32, device="cpu")
        model(x, quality=x.new_tensor([50.0])) if model.variable_rate else model(x)
    per_pixel = {part: n / side**2 / 1000 for part, n in counted.items()}
    shared = per_pixel["h_s"] + per_pixel["context"]
    encode = per_pixel["g_a"] + per_pixel["h_a"] + shared
    decode = per_pixel["g_s"] + shared
    total = encode + per_pixel["g_s"]
    return Complexity(sum(p.numel() for p in model.parameters()), encode, decode, total)
