"""Layers on dkic's kernels.

from dkic.nn import DCNv3, DCNv4, DeformConv2d, DeformConv2dPack, LDCNBlock, convert
"""

from dkic.nn.convert import convert
from dkic.nn.dcnv3 import DCNv3
from dkic.nn.dcnv4 import DCNv4
from dkic.nn.deform_conv2d import DeformConv2d, DeformConv2dPack
from dkic.nn.ldcn_block import LDCNBlock

__all__ = ["DCNv3", "DCNv4", "DeformConv2d", "DeformConv2dPack", "LDCNBlock", "convert"]
