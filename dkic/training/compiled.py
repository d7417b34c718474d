"""Compilation of the networks of a training step, on a GPU with CUDA graphs."""

from collections.abc import Iterable

import torch
from torch import nn

BACKEND = "inductor"


def compile_networks(networks: Iterable[nn.Module], device: torch.device) -> None:
    """Compiles networks in place with `torch.compile`, at their first call; keys of the state dict do not change.

    On a GPU, the mode is "reduce-overhead" (CUDA graphs), since a step of a small model consists of thousands of kernels that
    take less time than their launches.
    """
    options = {"mode": "reduce-overhead"} if device.type == "cuda" else {}
    for network in networks:
        network.compile(backend=BACKEND, dynamic=False, fullgraph=True, **options)
