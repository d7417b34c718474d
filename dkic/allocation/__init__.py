"""Allocation: chooses operating points under a budget, for the least distortion, with a bound on the optimum."""

from dkic.allocation.solve import Allocation, allocate

__all__ = ["Allocation", "allocate"]
