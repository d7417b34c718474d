// clamp(round((round(total) + bias) * multiplier), low, high) on the CPU, rounding half to even: the same result on every
// machine. Compiled once per instruction set (DKIC_ISA); requantize_cpu.cpp chooses one at run time.
#include "cpu/requantize_kernel.h"

#include "cpu/rounded.h"

namespace dkic::DKIC_ISA {
namespace {

constexpr int W = kVectorBytes / 4;
using V = Vector<float, W>;

inline V requantized(const RequantizeArguments& a, V total, V bias, V multiplier) {
  return rounded_within((rounded(total) + bias) * multiplier, a.low, a.high);
}

// Channels [c, c + length) of a row, in whole vectors; nothing beyond them is read or written.
template <bool kWhole>
inline void step(const RequantizeArguments& a, const float* total, float* out, int64_t c, int length) {
  const auto read = [&](const float* from) {
    if constexpr (kWhole) return load<W>(from);
    V v{};
    std::memcpy(&v, from, size_t(length) * sizeof(float));
    return v;
  };
  const V q = requantized(a, read(total + c), a.bias ? read(a.bias + c) : V{}, read(a.multiplier + c));
  if constexpr (kWhole) {
    store<W>(out + c, q);
  } else {
    std::memcpy(out + c, &q, size_t(length) * sizeof(float));
  }
}

void run(const RequantizeArguments& a, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const float* total = a.total + row * a.channels;
    float* out = a.out + row * a.channels;
    int64_t c = 0;
    for (; c + W <= a.channels; c += W) step<true>(a, total, out, c, W);
    if (c < a.channels) step<false>(a, total, out, c, int(a.channels - c));
  }
}

}  // namespace

extern const RequantizeKernel requantize_kernel = {run};

}  // namespace dkic::DKIC_ISA
