"""From a weights file, whose entropy networks are integers, back to a float model to train on."""

import numpy as np
import torch

from dkic.entropy.exact_network import thaw
from dkic.entropy.quantization import Arithmetic
from dkic.entropy.tables import SCALES, Tables
from dkic.models.dkic import DKIC
from dkic.models.weights_file import Weights


def trainable(weights: Weights) -> DKIC:
    """A float32 model that does what `weights` does, nearly: its means and scales are no longer rounded."""
    theirs = weights.model
    with torch.device("cpu"):
        model = DKIC(theirs.config).float()
    for part in ("g_a", "g_s", "h_a", "h_s", "context"):
        if weights.arithmetic == Arithmetic.EXACT and part in ("h_s", "context"):
            continue
        getattr(model, part).load_state_dict(getattr(theirs, part).state_dict())
    if weights.arithmetic == Arithmetic.EXACT:
        thaw(theirs, model)
    model.prior.learn(_after_the_gaussians(weights.tables))
    return model


def _after_the_gaussians(tables: Tables) -> Tables:
    """Those of z."""
    kept = slice(len(SCALES), None)
    return Tables(*(np.array(array[kept]) for array in (tables.frequencies, tables.length, tables.offset)))
