"""Which quality each image is coded at: the least distortion within a budget of bits, with a proof."""

from dkic.allocation.solve import Allocation, allocate

__all__ = ["Allocation", "allocate"]
