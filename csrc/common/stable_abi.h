// LibTorch's stable ABI. Only this file and cuda_guard.h include torch's headers, so one build works with later torch versions.
#pragma once
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/strided.h"

// torch 2.11 and earlier have it under another name, and do not report the message.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace dkic {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

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

// on: the device of the op's tensors.
inline Strided strided(const Tensor& t, const char* name, const torch::stable::Device& on) {
  STD_TORCH_CHECK(t.dim() == 4 && t.device() == on, name, " must be a 4-d tensor on the op's device");
  return {t.const_data_ptr(), scalar_of(t, name), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// t itself if its channels are adjacent in memory, else an NHWC copy.
inline Tensor channels_adjacent(const Tensor& t) {
  return t.stride(1) == 1 || t.size(1) == 1 ? t : torch::stable::contiguous(t, MemoryFormat::ChannelsLast);
}

inline Tensor empty_nhwc(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const std::vector<int64_t> shape{n, c, h, w};
  return torch::stable::empty(shape, type, std::nullopt, like.device(), std::nullopt, MemoryFormat::ChannelsLast);
}

// torch's Tensor::suggest_memory_format: ChannelsLast if strides increase in that order; Contiguous if ambiguous (one channel,
// one pixel, no element). Results have the memory format of the corresponding input.
inline MemoryFormat memory_format_of(const Tensor& t) {
  if (t.stride(1) == 0) return MemoryFormat::Contiguous;
  int64_t least = 0;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 0 || t.stride(d) < least || (d == 0 && least == t.stride(1))) return MemoryFormat::Contiguous;
    least = t.stride(d) * (t.size(d) > 1 ? t.size(d) : 1);
  }
  return MemoryFormat::ChannelsLast;
}

inline Tensor empty_like_format(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, ScalarType type) {
  const std::vector<int64_t> shape{n, c, h, w};
  return torch::stable::empty(shape, type, std::nullopt, like.device(), std::nullopt, memory_format_of(like));
}

// Converts an NHWC result to the type, and to the memory format of `like`, in which it is returned.
inline Tensor returned(const Tensor& nhwc, ScalarType type, const Tensor& like) {
  if (memory_format_of(like) == MemoryFormat::ChannelsLast) return torch::stable::to(nhwc, type);
  Tensor result = empty_like_format(like, nhwc.size(0), nhwc.size(1), nhwc.size(2), nhwc.size(3), type);
  return torch::stable::copy_(result, nhwc);
}

inline Tensor empty_vector(const Tensor& like, ScalarType type) {
  return torch::stable::empty(std::vector<int64_t>{0}, type, std::nullopt, like.device());
}

inline int64_t element_size(ScalarType type) { return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2; }

// A tensor view of a matrix in memory that it does not own.
inline Tensor matrix(void* data, ScalarType type, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step = 1) {
  const std::vector<int64_t> shape{rows, columns}, steps{row_step, column_step};
  return torch::stable::from_blob(data, shape, steps, torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// out = a b, and out += a b, by ATen's GEMM. The dispatcher is bypassed: on a thread of parallel_for it would apply autograd,
// autocast and tracing again.
inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), b.get()));
}
inline void add_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1));
}

}  // namespace dkic
