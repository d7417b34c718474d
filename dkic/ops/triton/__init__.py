"""Triton kernels, one module per op; imported only if an op runs on a GPU. See `dkic.ops.backends.triton_kernels`."""
