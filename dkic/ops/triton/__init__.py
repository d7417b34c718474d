"""Kernels in Triton, one module per op; imported only where an op runs on a GPU. See `dkic.ops.backends.triton_kernels`."""
