"""The native libraries, which the build puts here (setup.py has the table of their sources).

- `libdkic_cpu.so`: the CPU kernels of `dkic.ops`, on torch's stable ABI, loaded by `torch.ops.load_library`.
- `libdkic_cuda.so`: the CUDA kernels, likewise, where there was an nvcc to build them with; `cuda_build.json` says for which
  GPUs they are, or why there are none.
- `_rans`: the entropy coder and CRC32C, a pybind11 module that needs no torch.

`dkic doctor` says which of them are there and, where one is not, what repairs it.
"""
