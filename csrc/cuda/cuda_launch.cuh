// Launches kernel bodies on the GPU. Tests run the same bodies with the launcher of the emulator.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/host_device.h"

namespace dkic::gpu {

// Body::kBlocks, the minimum number of resident blocks per multiprocessor, limits the registers.
template <class Body>
__global__ void __launch_bounds__(Body::kThreads, Body::kBlocks) kernel(const __grid_constant__ Body body) {
  body(CudaThread());
}

// Launches kernels on a stream; after a failed launch, it launches none.
class CudaLauncher {
 public:
  explicit CudaLauncher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  // blocks: number of work items; the grid may be smaller, bodies loop over the items. No launch without work.
  template <class Body>
  void operator()(const Body& body, int64_t blocks, size_t shared_bytes = 0) {
    if (blocks == 0 || error_ != cudaSuccess) return;
    const dim3 grid(unsigned(std::min<int64_t>(blocks, INT32_MAX)));
    void* arguments[] = {const_cast<Body*>(&body)};
    error_ = cudaLaunchKernel(kernel<Body>, grid, dim3(Body::kThreads), arguments, shared_bytes, stream_);
  }

  int error() const { return int(error_); }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace dkic::gpu
