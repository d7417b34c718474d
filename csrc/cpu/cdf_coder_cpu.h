// Conversions between tensors and the types of cdf_coder.h. Streams are two tensors: their concatenated bytes, and their sizes.
#pragma once
#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "common/stable_abi.h"
#include "rans/cdf_coder.h"

namespace dkic {

inline std::span<const int32_t> ints(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Int && t.is_contiguous(), name,
                  ": must be contiguous int32 on the CPU");
  return {static_cast<const int32_t*>(t.const_data_ptr()), static_cast<size_t>(t.numel())};
}

inline std::span<const uint8_t> bytes(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Byte && t.dim() == 1 && t.is_contiguous(), name,
                  ": must be contiguous uint8 of one dimension on the CPU");
  return {static_cast<const uint8_t*>(t.const_data_ptr()), static_cast<size_t>(t.numel())};
}

// symbols: the number of symbols that are coded with the tables.
inline cdf_coder::Tables tables_of(const Tensor& cdf, const Tensor& length, const Tensor& offset, int64_t symbols) {
  STD_TORCH_CHECK(cdf.dim() == 2, "cdf: must be a matrix");
  return {ints(cdf, "cdf"), static_cast<size_t>(cdf.size(1)), ints(length, "cdf_length"), ints(offset, "offset"),
          symbols >= 8 * cdf.size(0)};
}

// Calls f(n) for each stream, on several threads. An exception of f on any thread is thrown here after all have ended.
template <class F>
void for_streams(int64_t streams, const F& f) {
  std::mutex mutex;
  std::string message;
  torch::stable::parallel_for(0, streams, 1, [&](int64_t first, int64_t last) {
    try {
      for (int64_t n = first; n < last; ++n) f(n);
    } catch (const std::exception& error) {
      const std::scoped_lock lock(mutex);
      if (message.empty()) message = error.what();
    }
  });
  if (!message.empty()) throw std::runtime_error(message);
}

inline std::tuple<Tensor, Tensor> joined(const std::vector<std::string>& streams, const Tensor& like) {
  int64_t total = 0;
  for (const std::string& stream : streams) total += int64_t(stream.size());
  Tensor data = torch::stable::empty(Shape{total}, ScalarType::Byte, std::nullopt, like.device());
  Tensor size = torch::stable::empty(Shape{int64_t(streams.size())}, ScalarType::Long, std::nullopt, like.device());
  auto* to = static_cast<uint8_t*>(data.mutable_data_ptr());
  auto* to_size = static_cast<int64_t*>(size.mutable_data_ptr());
  for (const std::string& stream : streams) {
    std::memcpy(to, stream.data(), stream.size());
    to += stream.size();
    *to_size++ = int64_t(stream.size());
  }
  return {data, size};
}

inline std::vector<std::span<const uint8_t>> split(const Tensor& data, const Tensor& size, int64_t streams) {
  STD_TORCH_CHECK(size.is_cpu() && size.scalar_type() == ScalarType::Long && size.dim() == 1 && size.is_contiguous() &&
                      size.size(0) == streams,
                  "size: must be int64 with one entry for each stream");
  std::span<const uint8_t> rest = bytes(data, "data");
  std::vector<std::span<const uint8_t>> parts;
  for (int64_t n = 0; n < streams; ++n) {
    const int64_t length = static_cast<const int64_t*>(size.const_data_ptr())[n];
    STD_TORCH_CHECK(length >= 0 && uint64_t(length) <= rest.size(), "size: must sum to the length of data");
    parts.push_back(rest.first(size_t(length)));
    rest = rest.subspan(size_t(length));
  }
  STD_TORCH_CHECK(rest.empty(), "size: must sum to the length of data");
  return parts;
}

}  // namespace dkic
