// dkic::gaussian_symbols on the CPU: checks that guard memory, outputs, the table's edges, and cutting the work for threads.
#include <atomic>
#include <cmath>
#include <limits>

#include "cpu/gaussian_symbols_kernel.h"
#include "cpu/traversal_cpu.h"

namespace dkic {
namespace {

int64_t first_bits(double x) {
  int64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits >> ScaleBuckets::kShift;
}

// Edges between `count` scales spread evenly in log from first to last: the middles, in log, between neighbors.
ScaleBuckets buckets_between(double first, double last, int64_t count) {
  const double low = std::log(first), step = (std::log(last) - low) / double(count - 1);
  const auto edge = [&](int64_t i) { return std::exp(low + (double(i) + 0.5) * step); };
  ScaleBuckets buckets{};
  // One bucket more at either end, with no edge in it, for all that lies beyond.
  buckets.first = first_bits(edge(0)) - 1, buckets.count = first_bits(edge(count - 2)) + 2 - buckets.first;
  STD_TORCH_CHECK(step > std::log(9.0 / 8) && buckets.count <= ScaleBuckets::kMost,
                  "gaussian_symbols: neighboring scales must differ by more than a factor of 9/8, over at most 127 octaves");
  int64_t next = 0;
  for (int64_t bucket = 0; bucket < buckets.count; ++bucket) {
    const bool has_edge = next < count - 1 && first_bits(edge(next)) == buckets.first + bucket;
    buckets.below[bucket] = uint8_t(next);
    buckets.edge[bucket] = has_edge ? edge(next) : std::numeric_limits<double>::infinity();
    next += has_edge;
  }
  return buckets;
}

std::tuple<Tensor, Tensor> gaussian_symbols(const Tensor& y, const Tensor& scale, const std::optional<Tensor>& mean,
                                            double scale_first, double scale_last, int64_t scale_count) {
  STD_TORCH_CHECK(y.dim() > 0, "gaussian_symbols: y must have a batch dimension");
  STD_TORCH_CHECK(scale_first > 0 && scale_last > scale_first && scale_last < 1e300 && scale_count >= 2 && scale_count <= 256,
                  "gaussian_symbols: the scales must be 2 to 256, positive, finite and rising");
  const Shape shape = shape_of(y);
  const std::vector<Operand> operands{operand(y, shape, "y"), operand(scale, shape, "scale"),
                                      optional_operand(mean, shape, "mean")};
  std::vector<StridedOperand> traversed;
  const std::optional<Traversal> traversal = make_traversal(shape, false, operands, traversed);
  if (!traversal) {
    const auto plain = [](const Tensor& t) { return torch::stable::contiguous(t); };
    return gaussian_symbols(plain(y), plain(scale), mean ? std::optional(plain(*mean)) : mean, scale_first, scale_last,
                            scale_count);
  }
  const ScaleBuckets buckets = buckets_between(scale_first, scale_last, scale_count);
  Tensor symbols = empty_result(y, ScalarType::Int, false), index = empty_result(y, ScalarType::Byte, false);
  GaussianSymbolsArguments a{};
  a.traversal = *traversal;
  for (const Operand& o : operands) a.is_double |= o.type == Scalar::f64;
  a.y = traversed[0], a.scale = traversed[1], a.mean = traversed[2];
  a.buckets = &buckets;
  a.symbols = static_cast<int32_t*>(symbols.mutable_data_ptr());
  a.index = static_cast<uint8_t*>(index.mutable_data_ptr());
  std::atomic<bool> good{true};
  const GaussianSymbolsKernel& kernel = DKIC_CHOSEN(gaussian_symbols_kernel);
  for_chunks(a.traversal, [&](int64_t first, int64_t last) {
    if (!kernel.run(a, first, last)) good = false;
  });
  STD_TORCH_CHECK(good, "gaussian_symbols: y - mean must be finite and within int32, and scale must not be NaN");
  return {symbols, index};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) { m.impl("gaussian_symbols", TORCH_BOX(&dkic::gaussian_symbols)); }
