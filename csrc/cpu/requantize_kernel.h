// What requantize_cpu.cpp (torch) and requantize_kernel.cpp (compiled once per instruction set, torch-free) say to each other.
#pragma once
#include "common/strided.h"
#include "cpu/cpu_capability.h"

namespace dkic {

// Rows of `channels` numbers, one after the other.
struct RequantizeArguments {
  int64_t channels;
  const float *total, *bias;  // bias: one number a channel, or nullptr
  const float* multiplier;    // one a channel
  float low, high;
  float* out;
};

struct RequantizeKernel {
  void (*run)(const RequantizeArguments&, int64_t first, int64_t last);  // rows [first, last)
};

DKIC_DECLARE_KERNEL(RequantizeKernel, requantize_kernel)

}  // namespace dkic
