// What exact_conv2d_cpu.cpp (torch) and exact_conv2d_kernel.cpp (compiled once per instruction set, torch-free) say to each other.
#pragma once
#include "cpu_capability.h"
#include "strided.h"

namespace dkic {

// Output channels lie in groups of so many, input channels in pairs: weight is int16 [groups, k, k, pairs, kGroup, 2].
constexpr int kGroup = 16;

// A convolution of integers and its requantisation. Output pixels are numbered through the batch; sides are bounded by the caller.
struct ExactConv2dArguments {
  const float* x;                                      // integers
  int64_t stride_n, stride_c, stride_h, stride_w;      // of x, in numbers
  int64_t channels, height, width, padding;            // of x
  int64_t pairs;                                       // of channels, the last one filled up with a zero
  int16_t* padded;                                     // x as [N, height + 2 padding, width + 2 padding, pairs, 2]
  const int16_t* weight;
  const int32_t* bias;                                 // [out]
  const float* multiplier;                             // [out]
  int64_t k, stride, out, out_height, out_width;
  float low, high;
  float* y;                                            // [N, out_height, out_width, out]
};

struct ExactConv2dKernel {
  void (*pad)(const ExactConv2dArguments&, int64_t first, int64_t last);  // rows [first, last) of `padded`
  void (*run)(const ExactConv2dArguments&, int64_t first, int64_t last);  // output pixels [first, last)
};

DKIC_DECLARE_KERNEL(ExactConv2dKernel, exact_conv2d_kernel)

}  // namespace dkic
