// How torch's tensors reach the kernels, which know no torch.
#pragma once
#include <cstdint>

namespace dkic {

enum class Scalar : int { f32, f64, f16, bf16 };

// A [batch, channels, height, width] tensor; strides count elements.
struct Strided {
  const void* data;
  Scalar type;
  int64_t n, c, h, w;
};

}  // namespace dkic
