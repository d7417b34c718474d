// dkic::gaussian_indexes on the CPU: the interval of each scale in a sorted list of edges.
#include "cpu/scale_edges.h"
#include "cpu/traversal_cpu.h"
#include "cpu/traversal_tiles.h"

namespace dkic {
namespace {

Tensor gaussian_indexes(const Tensor& scale, const std::vector<double>& edges) {
  STD_TORCH_CHECK(scale.dim() > 0, "gaussian_indexes: scale must have a batch dimension");
  STD_TORCH_CHECK(ScaleEdges::valid(edges), "gaussian_indexes: edges must be 1 to 65535, positive, finite and sorted");
  const Shape shape = shape_of(scale);
  const std::vector<Operand> operands{operand(scale, shape, "scale")};
  std::vector<StridedOperand> traversed;
  const std::optional<Traversal> traversal = make_traversal(shape, false, operands, traversed);
  if (!traversal) return gaussian_indexes(torch::stable::contiguous(scale), edges);
  const ScaleEdges sorted(edges);
  const bool is_byte = edges.size() < 256;
  Tensor index = empty_result(scale, is_byte ? ScalarType::Byte : ScalarType::Int, false);
  auto* const bytes = static_cast<uint8_t*>(index.mutable_data_ptr());
  auto* const ints = static_cast<int32_t*>(index.mutable_data_ptr());
  for_chunks(*traversal, [&](int64_t first, int64_t last) {
    alignas(64) double buffer[baseline::kTile];
    for (int64_t chunk = first; chunk < last; ++chunk)
      baseline::for_tiles(*traversal, chunk, [&](int64_t n, int64_t begin, int count, int64_t position) {
        const double* s = baseline::read_tile(*traversal, traversed[0], n, begin, count, buffer);
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
