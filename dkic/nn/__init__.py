"""Layers on dkic's kernels.

from dkic.nn import DeformConv2d, DeformConv2dPack
"""

from dkic.nn.deform_conv2d import DeformConv2d, DeformConv2dPack

__all__ = ["DeformConv2d", "DeformConv2dPack"]
