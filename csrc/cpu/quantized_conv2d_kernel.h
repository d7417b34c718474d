// Interface between quantized_conv2d_cpu.cpp (torch) and quantized_conv2d_kernel.cpp (compiled once per instruction set,
// torch-free).
#pragma once
#include "common/strided.h"
#include "cpu/cpu_capability.h"

namespace dkic {

// Output channels are in groups of kGroup, input channels in pairs: weight is int16 [groups, k, k, pairs, kGroup, 2].
constexpr int kGroup = 16;

// A convolution of integers and its requantization.
struct QuantizedConv2dArguments {
  const float* x;                                  // integers
  int64_t stride_n, stride_c, stride_h, stride_w;  // of x, in elements
  int64_t channels, height, width, padding;        // of x
  int64_t pairs;                                   // of channels; the last pair may be padded with a zero
  const int16_t* weight;
  const int32_t* bias;      // [out]
  const float* multiplier;  // [out]
  int64_t k, stride, out, out_height, out_width;
  float low, high;
  float* y;  // [N, out_height, out_width, out]
};

// Some output rows of an image.
struct QuantizedConv2dBand {
  int64_t n, first, rows;
  int16_t* x;  // input rows [(rows - 1) * stride + k, width + 2 padding, pairs, 2]: written by `pad`, read by `run`
};

struct QuantizedConv2dKernel {
  void (*pad)(const QuantizedConv2dArguments&, const QuantizedConv2dBand&);
  void (*run)(const QuantizedConv2dArguments&, const QuantizedConv2dBand&);
};

DKIC_DECLARE_KERNEL(QuantizedConv2dKernel, quantized_conv2d_kernel)

}  // namespace dkic
