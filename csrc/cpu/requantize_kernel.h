// Interface between requantize_cpu.cpp (torch) and requantize_kernel.cpp (compiled once per instruction set, torch-free).
#pragma once
#include "common/strided.h"
#include "cpu/cpu_capability.h"

namespace dkic {

// Contiguous rows of `channels` elements.
struct RequantizeArguments {
  int64_t channels;
  const float *total, *bias;  // bias: one for each channel, or nullptr
  const float* multiplier;    // one for each channel
  float low, high;
  float* out;
};

struct RequantizeKernel {
  void (*run)(const RequantizeArguments&, int64_t first, int64_t last);  // rows [first, last)
};

DKIC_DECLARE_KERNEL(RequantizeKernel, requantize_kernel)

}  // namespace dkic
