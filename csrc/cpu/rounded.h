// Rounding half to even, with the same result on every machine.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

using Floats = Vector<float, kVectorBytes / 4>;

// The compiler must not fuse the addition that rounds with a preceding product.
inline Floats rounded(Floats x) {
#if defined(__AVX512F__)
  return bit_cast<Floats>(_mm512_maskz_roundscale_ps(0xffff, bit_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  return bit_cast<Floats>(_mm256_round_ps(bit_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
#if defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return nearest<float, kVectorBytes / 4>(x);
#endif
}

// x rounded and clamped to [low, high]; propagates NaN.
inline Floats rounded_within(Floats x, float low, float high) {
  const Floats q = rounded(x), least = Floats{} + low, most = Floats{} + high, bounded = q < least ? least : q;
  return bounded > most ? most : bounded;
}

}  // namespace dkic::DKIC_ISA
