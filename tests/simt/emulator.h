// The emulator as a launcher of kernel bodies: what CudaLauncher is on a GPU (csrc/cuda/cuda_launch.cuh).
#pragma once
#include "simt.h"

namespace simt {

// At most so many blocks: with fewer than there is work, some have several shares.
struct Emulator {
  Order order;
  int64_t most_blocks;
  Traffic* traffic = nullptr;
  bool vector_atomics = true;

  template <class Body>
  void operator()(const Body& body, int64_t blocks, size_t shared_bytes = 0) const {
    Launch of{Body::kName, std::min(blocks, most_blocks), Body::kThreads, shared_bytes, order};
    of.traffic = traffic, of.vector_atomics = vector_atomics;
    launch(of, body);
  }
};

}  // namespace simt
