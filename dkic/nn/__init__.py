"""Layers on dkic's kernels.

from dkic.nn import DeformConv2d, DeformConv2dPack, LDCNBlock
"""

from dkic.nn.deform_conv2d import DeformConv2d, DeformConv2dPack
from dkic.nn.ldcn_block import LDCNBlock

__all__ = ["DeformConv2d", "DeformConv2dPack", "LDCNBlock"]
