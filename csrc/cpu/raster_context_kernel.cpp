// Products of a few vectors with a panel of a matrix. Compiled once per instruction set (DKIC_ISA); raster_context_cpu.cpp
// chooses one at run time.
#include "cpu/raster_context_kernel.h"

#include "cpu/mask.h"

namespace dkic::DKIC_ISA {
namespace {

constexpr int W = kVectorBytes / 4;
using V = Vector<float, W>;

inline V multiply_add(V a, V b, V c) {
  if constexpr (kFused) {
    return fused<float, W>(a, b, c);
  } else {
    return a * b + c;
  }
}

// P positions and N vectors of outputs at once: as many sums as fit into registers.
template <int P, int N>
inline void add_block(const float* weight, int64_t depth, const float* const* x, int64_t x_offset, float* const* y,
                      int64_t y_offset) {
  const float* from[P];
  V sum[P][N];
  for (int p = 0; p < P; ++p) {
    from[p] = x[p] + x_offset;
    for (int i = 0; i < N; ++i) sum[p][i] = load<W>(y[p] + y_offset + i * W);
  }
  for (int64_t k = 0; k < depth; ++k, weight += kPanel) {
    V w[N];
    for (int i = 0; i < N; ++i) w[i] = load<W>(weight + i * W);
    for (int p = 0; p < P; ++p) {
      const V value = V{} + from[p][k];
      for (int i = 0; i < N; ++i) sum[p][i] = multiply_add(w[i], value, sum[p][i]);
    }
  }
  for (int p = 0; p < P; ++p)
    for (int i = 0; i < N; ++i) store<W>(y[p] + y_offset + i * W, sum[p][i]);
}

template <int P, int N>
inline void add_panel(const float* weight, int64_t depth, const float* const* x, int64_t x_offset, float* const* y,
                      int64_t y_offset) {
  for (int64_t o = 0; o < kPanel; o += N * W) add_block<P, N>(weight + o, depth, x, x_offset, y, y_offset + o);
}

void add_product(const float* weight, int64_t depth, const float* const* x, int64_t x_offset, float* const* y, int64_t y_offset,
                 int64_t positions) {
  constexpr bool kWide = kVectorBytes == 64;  // 32 registers, else 16
  constexpr int kMost = kWide ? 6 : 2;
  int64_t p = 0;
  for (; p + kMost <= positions; p += kMost) add_panel<kMost, 4>(weight, depth, x + p, x_offset, y + p, y_offset);
  if constexpr (kWide)
    for (; p + 2 <= positions; p += 2) add_panel<2, 4>(weight, depth, x + p, x_offset, y + p, y_offset);
  for (; p < positions; ++p) add_panel<1, kWide ? 4 : 8>(weight, depth, x + p, x_offset, y + p, y_offset);
}

}  // namespace

extern const RasterContextKernel raster_context_kernel = {add_product};

}  // namespace dkic::DKIC_ISA
