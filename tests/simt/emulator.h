// The emulator as a launcher of kernel bodies: what CudaLauncher is on a GPU (csrc/cuda_launch.cuh).
#pragma once
#include "simt.h"

namespace simt {

// At most so many blocks: with fewer than there is work, some have several shares.
struct Emulator {
  Order order;
  int64_t most_blocks;

  template <class Body>
  void operator()(const Body& body, int64_t blocks, size_t shared_bytes = 0) const {
    launch({Body::kName, std::min(blocks, most_blocks), Body::kThreads, shared_bytes, order}, body);
  }
};

}  // namespace simt
