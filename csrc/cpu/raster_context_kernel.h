// Interface between raster_context_cpu.cpp (torch) and raster_context_kernel.cpp (compiled once per instruction set, torch-free).
#pragma once
#include <cstdint>

#include "cpu/cpu_capability.h"

namespace dkic {

// Outputs of a layer are computed in panels; weights of a panel are [depth][kPanel].
constexpr int64_t kPanel = 64;

struct RasterContextKernel {
  // y[p][y_offset + o] += sum over k of weight[k][o] x[p][x_offset + k], for o < kPanel, p < positions. Terms are added in the
  // order of k, each by a fused multiply-add if the machine supports it. So a result depends neither on the number of positions
  // nor on how a sum over k is split into calls.
  void (*add_product)(const float* weight, int64_t depth, const float* const* x, int64_t x_offset, float* const* y,
                      int64_t y_offset, int64_t positions);
};

DKIC_DECLARE_KERNEL(RasterContextKernel, raster_context_kernel)

}  // namespace dkic
