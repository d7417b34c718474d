// Symbols and table indexes of a latent on the CPU. Compiled once per instruction set (DKIC_ISA); gaussian_symbols_cpu.cpp
// chooses one at run time.
#include "cpu/gaussian_symbols_kernel.h"

#include "cpu/traversal_tiles.h"

namespace dkic::DKIC_ISA {
namespace {

template <class T>
struct Symbols {
  static constexpr int W = kVectorBytes / int(sizeof(T));
  using V = Vector<T, W>;

  const GaussianSymbolsArguments& a;
  alignas(64) T y[kTile]{}, scale[kTile]{}, mean[kTile]{}, rounded[kTile]{};

  bool tile(int64_t n, int64_t first, int count, int64_t position) {
    const T* y_from = read_tile(a.traversal, a.y, n, first, count, y);
    const T* mean_from = a.mean.data ? read_tile(a.traversal, a.mean, n, first, count, mean) : mean;
    const T* scale_from = read_tile(a.traversal, a.scale, n, first, count, scale);
    for (int i = 0; i < count; i += W) store<W>(rounded + i, nearest<T, W>(load<W>(y_from + i) - load<W>(mean_from + i)));
    bool good = true;
    for (int i = 0; i < count; ++i) {
      const bool fits = rounded[i] >= T(-0x1p31) && rounded[i] < T(0x1p31);
      a.symbols[position + i] = fits ? int32_t(rounded[i]) : 0;
      good &= fits;
    }
    const ScaleBuckets& buckets = *a.buckets;
    for (int i = 0; i < count; ++i) {
      const double s = double(scale_from[i]);
      int64_t bucket = (bit_cast<int64_t>(s) >> ScaleBuckets::kShift) - buckets.first;
      bucket = bucket < 0 ? 0 : bucket < buckets.count ? bucket : buckets.count - 1;
      a.index[position + i] = uint8_t(buckets.below[bucket] + (s > buckets.edge[bucket]));
      good &= s == s;
    }
    return good;
  }
};

template <class T>
bool run_chunks(const GaussianSymbolsArguments& a, int64_t first, int64_t last) {
  Symbols<T> symbols{a};
  bool good = true;
  for (int64_t number = first; number < last; ++number)
    for_tiles(a.traversal, number,
              [&](int64_t n, int64_t begin, int count, int64_t position) { good &= symbols.tile(n, begin, count, position); });
  return good;
}

bool run(const GaussianSymbolsArguments& a, int64_t first, int64_t last) {
  return a.is_double ? run_chunks<double>(a, first, last) : run_chunks<float>(a, first, last);
}

}  // namespace

extern const GaussianSymbolsKernel gaussian_symbols_kernel = {run};

}  // namespace dkic::DKIC_ISA
