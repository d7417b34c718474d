"""Networks of the codec. `LDCNBlock` and `DRBG` serve other codecs too."""

from dkic.models.config import PRESETS, ModelConfig, SliceSpec
from dkic.models.dkic import DKIC
from dkic.models.drbg import DRBG
from dkic.models.ldcn_block import LDCNBlock

__all__ = ["DKIC", "DRBG", "PRESETS", "LDCNBlock", "ModelConfig", "SliceSpec"]
