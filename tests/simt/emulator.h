// Launches kernel bodies on the emulator; the counterpart of CudaLauncher (csrc/cuda/cuda_launch.cuh).
#pragma once
#include "simt.h"

namespace simt {

// Maximum number of blocks; with fewer blocks than work items, some blocks process several items.
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
