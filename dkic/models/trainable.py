"""Converts a quantized weights file back to a float model, to continue training."""

import numpy as np
import torch

from dkic.entropy.quantization import Arithmetic
from dkic.entropy.tables import SCALES, Tables
from dkic.models.codec_network import CodecNetwork
from dkic.models.dkic import DKIC
from dkic.models.presets import network_of
from dkic.models.weights_file import Weights
from dkic.quantized import dequantize


def trainable(weights: Weights) -> CodecNetwork:
    """A float32 model nearly equal to `weights`: its means and scales are not rounded."""
    theirs = weights.model
    with torch.device("cpu"):
        model = network_of(theirs.config).float()
    integers = theirs.entropy_networks() if weights.arithmetic == Arithmetic.EXACT else {}
    for part, network in theirs.named_children():
        if part not in integers and part != "prior":
            getattr(model, part).load_state_dict(network.state_dict())
    if integers:
        dequantize(theirs, model)
    if isinstance(model, DKIC):
        model.prior.learn(_after_the_gaussians(weights.tables))
    return model


def _after_the_gaussians(tables: Tables) -> Tables:
    """Those of z."""
    kept = slice(len(SCALES), None)
    return Tables(*(np.array(array[kept]) for array in (tables.frequencies, tables.length, tables.offset)))
