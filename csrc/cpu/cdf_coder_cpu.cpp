// dkic::cdf_encode, dkic::cdf_decode and dkic::cdf_decode_part: checks that guard memory accesses, and parallel coding of
// streams. The format is in cdf_coder.h, the error messages for users in dkic/ops/cdf_coder.py.
#include "cpu/cdf_coder_cpu.h"

namespace dkic {
namespace {

using cdf_coder::Decoder;

struct Batch {
  int64_t streams, symbols;  // symbols of each stream
};

Batch batch_of(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() == 2 && t.is_contiguous(), name, ": must be a contiguous matrix on the CPU");
  return {t.size(0), t.size(1)};
}

// Calls f with the indexes' data.
template <class F>
void with_indexes(const Tensor& indexes, const F& f) {
  if (indexes.scalar_type() == ScalarType::Byte) return f(static_cast<const uint8_t*>(indexes.const_data_ptr()));
  STD_TORCH_CHECK(indexes.scalar_type() == ScalarType::Int, "indexes: must be uint8 or int32");
  f(static_cast<const int32_t*>(indexes.const_data_ptr()));
}

std::tuple<Tensor, Tensor> cdf_encode(const Tensor& symbols, const Tensor& indexes, const Tensor& cdf, const Tensor& cdf_length,
                                      const Tensor& offset) {
  const auto [streams, count] = batch_of(symbols, "symbols");
  const Batch shape = batch_of(indexes, "indexes");
  STD_TORCH_CHECK(shape.streams == streams && shape.symbols == count, "indexes: must have the shape of symbols");
  const int32_t* const data = ints(symbols, "symbols").data();
  std::vector<std::string> coded(static_cast<size_t>(streams));
  with_indexes(indexes, [&](const auto* index) {
    for_streams(streams, [&](int64_t n) {
      auto tables = tables_of(cdf, cdf_length, offset, count);
      coded[size_t(n)] = cdf_coder::encode(tables, {data + n * count, size_t(count)}, index + n * count);
    });
  });
  return joined(coded, symbols);
}

std::tuple<Tensor, Tensor> cdf_decode(const Tensor& data, const Tensor& size, const Tensor& indexes, const Tensor& cdf,
                                      const Tensor& cdf_length, const Tensor& offset) {
  const auto [streams, count] = batch_of(indexes, "indexes");
  const std::vector<std::span<const uint8_t>> parts = split(data, size, streams);
  const Tensor symbols = torch::stable::empty(Shape{streams, count}, ScalarType::Int, std::nullopt, indexes.device());
  const Tensor intact = torch::stable::empty(Shape{streams}, ScalarType::Bool, std::nullopt, indexes.device());
  auto* const out = static_cast<int32_t*>(symbols.mutable_data_ptr());
  auto* const good = static_cast<bool*>(intact.mutable_data_ptr());
  std::fill_n(out, streams * count, 0);
  with_indexes(indexes, [&](const auto* index) {
    for_streams(streams, [&](int64_t n) {
      auto tables = tables_of(cdf, cdf_length, offset, count);
      Decoder decoder(parts[size_t(n)]);
      good[n] = decoder.decode(tables, index + n * count, size_t(count), out + n * count) && decoder.finished();
    });
  });
  return {symbols, intact};
}

// state: the coder's state and the number of the next word, int64 [2]; zeros at the beginning of the stream.
Tensor cdf_decode_part(const Tensor& data, const Tensor& state, const Tensor& indexes, const Tensor& cdf,
                       const Tensor& cdf_length, const Tensor& offset) {
  const auto [streams, count] = batch_of(indexes, "indexes");
  STD_TORCH_CHECK(streams == 1, "indexes: must be of one stream");
  STD_TORCH_CHECK(state.is_cpu() && state.scalar_type() == ScalarType::Long && state.numel() == 2 && state.is_contiguous(),
                  "state: must be two int64 numbers on the CPU");
  const std::span<const uint8_t> stream = bytes(data, "data");
  auto* const position = static_cast<int64_t*>(state.mutable_data_ptr());
  const bool first = position[0] == 0 && position[1] == 0;
  Decoder decoder = first ? Decoder(stream) : Decoder(stream, {uint64_t(position[0]), position[1]});
  const Tensor symbols = torch::stable::empty(Shape{1, count}, ScalarType::Int, std::nullopt, indexes.device());
  with_indexes(indexes, [&](const auto* index) {
    auto tables = tables_of(cdf, cdf_length, offset, count);
    const bool good = decoder.decode(tables, index, size_t(count), static_cast<int32_t*>(symbols.mutable_data_ptr()));
    STD_TORCH_CHECK(good, "the stream is damaged or was coded with other tables");
  });
  position[0] = int64_t(decoder.state().x), position[1] = decoder.state().next;
  return symbols;
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("cdf_encode", TORCH_BOX(&dkic::cdf_encode));
  m.impl("cdf_decode", TORCH_BOX(&dkic::cdf_decode));
  m.impl("cdf_decode_part", TORCH_BOX(&dkic::cdf_decode_part));
}
