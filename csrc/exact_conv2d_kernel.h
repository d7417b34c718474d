// What exact_conv2d_cpu.cpp (torch) and exact_conv2d_kernel.cpp (compiled once per instruction set, torch-free) say to each
// other.
#pragma once
#include "cpu_capability.h"
#include "strided.h"

namespace dkic {

// Output channels lie in groups of so many, input channels in pairs: weight is int16 [groups, k, k, pairs, kGroup, 2].
constexpr int kGroup = 16;

// A convolution of integers and its requantisation.
struct ExactConv2dArguments {
  const float* x;                                  // integers
  int64_t stride_n, stride_c, stride_h, stride_w;  // of x, in numbers
  int64_t channels, height, width, padding;        // of x
  int64_t pairs;                                   // of channels, the last one filled up with a zero
  const int16_t* weight;
  const int32_t* bias;      // [out]
  const float* multiplier;  // [out]
  int64_t k, stride, out, out_height, out_width;
  float low, high;
  float* y;  // [N, out_height, out_width, out]
};

// Some output rows of a picture.
struct ExactConv2dBand {
  int64_t n, first, rows;
  int16_t* x;  // what they are made of, [(rows - 1) * stride + k, width + 2 padding, pairs, 2]: filled by `pad`, read by `run`
};

struct ExactConv2dKernel {
  void (*pad)(const ExactConv2dArguments&, const ExactConv2dBand&);
  void (*run)(const ExactConv2dArguments&, const ExactConv2dBand&);
};

DKIC_DECLARE_KERNEL(ExactConv2dKernel, exact_conv2d_kernel)

}  // namespace dkic
