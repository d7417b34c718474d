// dkic::gaussian_indexes on the CPU: the interval of each scale in a sorted list of edges.
#include <limits>

#include "walk_cpu.h"
#include "walk_tiles.h"

namespace dkic {
namespace {

// Edges by the first bits of a positive double: the exponent and three bits of the mantissa name a bucket, no wider than a factor
// of 9/8, which seldom holds more than one edge.
class Edges {
 public:
  explicit Edges(std::vector<double> edges) : edges_(std::move(edges)), first_(bucket_of(edges_.front()) - 1) {
    const int64_t last = bucket_of(edges_.back()) + 1;
    size_t below = 0;
    for (int64_t bucket = first_; bucket <= last; ++bucket) {
      while (below < edges_.size() && bucket_of(edges_[below]) < bucket) ++below;
      below_.push_back(int32_t(below));
    }
    edges_.push_back(std::numeric_limits<double>::infinity());
  }

  // NaN has all edges below it.
  int32_t below(double s) const {
    const int64_t bucket = std::clamp<int64_t>(bucket_of(s) - first_, 0, int64_t(below_.size()) - 1);
    int32_t number = below_[size_t(bucket)];
    number += s > edges_[size_t(number)];
    while (s > edges_[size_t(number)]) [[unlikely]]
      ++number;
    return number;
  }

 private:
  static int64_t bucket_of(double x) { return baseline::bit_cast<int64_t>(x) >> 49; }

  std::vector<double> edges_;
  int64_t first_;
  std::vector<int32_t> below_;
};

Tensor gaussian_indexes(const Tensor& scale, const std::vector<double>& edges) {
  STD_TORCH_CHECK(scale.dim() > 0, "gaussian_indexes: scale must have a batch dimension");
  STD_TORCH_CHECK(edges.size() >= 1 && edges.size() < 65536, "gaussian_indexes: edges must be 1 to 65535");
  for (size_t i = 0; i < edges.size(); ++i)
    STD_TORCH_CHECK(edges[i] > 0 && edges[i] < std::numeric_limits<double>::infinity() && (i == 0 || edges[i] >= edges[i - 1]),
                    "gaussian_indexes: edges must be positive, finite and sorted");
  const Shape shape = shape_of(scale);
  const std::vector<Operand> operands{operand(scale, shape, "scale")};
  std::vector<Walked> walked;
  const std::optional<Walk> walk = walk_through(shape, false, operands, walked);
  if (!walk) return gaussian_indexes(torch::stable::contiguous(scale), edges);
  const Edges sorted(edges);
  const bool is_byte = edges.size() < 256;
  Tensor index = empty_result(scale, is_byte ? ScalarType::Byte : ScalarType::Int, false);
  auto* const bytes = static_cast<uint8_t*>(index.mutable_data_ptr());
  auto* const ints = static_cast<int32_t*>(index.mutable_data_ptr());
  for_chunks(*walk, [&](int64_t first, int64_t last) {
    alignas(64) double buffer[baseline::kTile];
    for (int64_t chunk = first; chunk < last; ++chunk)
      baseline::for_tiles(*walk, chunk, [&](int64_t n, int64_t begin, int count, int64_t position) {
        const double* s = baseline::read_tile(*walk, walked[0], n, begin, count, buffer);
        if (is_byte) {
          for (int i = 0; i < count; ++i) bytes[position + i] = uint8_t(sorted.below(s[i]));
        } else {
          for (int i = 0; i < count; ++i) ints[position + i] = sorted.below(s[i]);
        }
      });
  });
  return index;
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) { m.impl("gaussian_indexes", TORCH_BOX(&dkic::gaussian_indexes)); }
