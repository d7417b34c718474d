"""Quantized networks: bit-exact integer inference for entropy networks, which compute the means and scales of symbols."""

from dkic.quantized.activation_scale import ACTIVATION_MAX, ActivationScale
from dkic.quantized.conv2d import SUM_BOUND, WEIGHT_MAX, QuantizedConv2d
from dkic.quantized.latent_input import LatentInput
from dkic.quantized.layer import (
    QuantizedLayer,
    State,
    calibrate,
    convert,
    converted_state,
    dequantize,
    load,
    prepare,
    quantized_layers,
    stored_names,
)
from dkic.quantized.ldcn_block import QuantizedLDCNBlock

__all__ = [
    "ACTIVATION_MAX",
    "SUM_BOUND",
    "WEIGHT_MAX",
    "ActivationScale",
    "LatentInput",
    "QuantizedConv2d",
    "QuantizedLDCNBlock",
    "QuantizedLayer",
    "State",
    "calibrate",
    "convert",
    "converted_state",
    "dequantize",
    "load",
    "prepare",
    "quantized_layers",
    "stored_names",
]
