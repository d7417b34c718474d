"""Networks of the codec. `LDCNBlock` and `DRBG` can be used in other codecs too."""

from dkic.models.config import ModelConfig, SliceSpec
from dkic.models.dkic import DKIC
from dkic.models.drbg import DRBG
from dkic.models.presets import PRESETS, config_of, network_of
from dkic.models.variable_rate import VariableRateDKIC
from dkic.models.variable_rate_config import StageSpec, VariableRateConfig
from dkic.nn.ldcn_block import LDCNBlock

__all__ = [
    "DKIC",
    "DRBG",
    "PRESETS",
    "LDCNBlock",
    "ModelConfig",
    "SliceSpec",
    "StageSpec",
    "VariableRateConfig",
    "VariableRateDKIC",
    "config_of",
    "network_of",
]
