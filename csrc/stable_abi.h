// The only file that includes torch headers: LibTorch's stable ABI, so that one build serves later torch versions.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "strided.h"

namespace dkic {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Scalar scalar_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Scalar::f32;
    case ScalarType::Double:
      return Scalar::f64;
    case ScalarType::Half:
      return Scalar::f16;
    case ScalarType::BFloat16:
      return Scalar::bf16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
  }
}

inline Strided strided(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 4 && t.is_cpu(), name, " must be a 4-d tensor on the CPU");
  return {t.const_data_ptr(), scalar_of(t, name), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// t itself where its channels lie side by side, else an NHWC copy.
inline Tensor channels_adjacent(const Tensor& t) {
  return t.stride(1) == 1 || t.size(1) == 1 ? t : torch::stable::contiguous(t, MemoryFormat::ChannelsLast);
}

inline Tensor empty_nhwc(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const std::vector<int64_t> shape{n, c, h, w};
  return torch::stable::empty(shape, type, std::nullopt, like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

inline Tensor empty_vector(const Tensor& like, ScalarType type) {
  return torch::stable::empty(std::vector<int64_t>{0}, type, std::nullopt, like.device());
}

}  // namespace dkic
