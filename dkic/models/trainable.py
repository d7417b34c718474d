"""Converts a quantized weights file back to a float model, to continue training."""

import numpy as np
import torch

from dkic.entropy.arithmetic import Arithmetic
from dkic.entropy.tables import SCALES, Tables
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import DKIC
from dkic.models.presets import network_of
from dkic.models.weights_file import Weights
from dkic.quantized import dequantize


def trainable(weights: Weights) -> CodecNetwork:
    """A float32 model nearly equal to `weights`: only the rounding of its means and scales is missing."""
    loaded = weights.model
    with torch.device("cpu"):
        model = network_of(loaded.config).float()
    integers = loaded.entropy_networks() if weights.arithmetic == Arithmetic.EXACT else {}
    for part, network in loaded.named_children():
        if part not in integers and part != "prior":
            getattr(model, part).load_state_dict(network.state_dict())
    if integers:
        dequantize(loaded, model)
    if isinstance(model, DKIC):
        model.prior.learn(_tables_of_z(weights.tables))
    return model


def _tables_of_z(tables: Tables) -> Tables:
    """The tables of z, which follow those of the Gaussians."""
    kept = slice(len(SCALES), None)
    return Tables(*(np.array(array[kept]) for array in (tables.frequencies, tables.length, tables.offset)))
