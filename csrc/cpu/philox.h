// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): random words as a function of a counter and
// a key, so that any part of a sequence can be drawn anywhere.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

// A vector of counters of four words each, in the low halves of 64-bit lanes; the high halves have any value. So a product of two
// words needs no unpacking.
struct Philox {
  static constexpr int W = kVectorBytes / 8;
  using V = Vector<uint64_t, W>;
  V word[4];

  // The counters (low, high), 64 bits each.
  Philox(V low, V high) : word{low, low >> 32, high, high >> 32} {}

  // Replaces the counters by the random words.
  void draw(uint64_t key) {
    uint32_t key0 = uint32_t(key), key1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round, key0 += 0x9e3779b9u, key1 += 0xbb67ae85u) {
      const V product0 = product(word[0], 0xd2511f53u), product1 = product(word[2], 0xcd9e8d57u);
      word[0] = (product1 >> 32) ^ word[1] ^ key0;
      word[2] = (product0 >> 32) ^ word[3] ^ key1;
      word[1] = product1;
      word[3] = product0;
    }
  }

 private:
  // Product of the lanes' low halves with m: all 64 bits. The compilers' vector extensions have no such product.
  static V product(V x, uint32_t m) {
#if defined(__AVX512F__)
    return bit_cast<V>(_mm512_maskz_mul_epu32(0xff, bit_cast<__m512i>(x), _mm512_set1_epi64(m)));
#elif defined(__AVX2__)
    return bit_cast<V>(_mm256_mul_epu32(bit_cast<__m256i>(x), _mm256_set1_epi64x(m)));
#elif defined(__SSE2__)
    return bit_cast<V>(_mm_mul_epu32(bit_cast<__m128i>(x), _mm_set1_epi64x(m)));
#else
    return (x & 0xffffffffu) * uint64_t(m);
#endif
  }
};

// a0 b0 a1 b1 ..., in two vectors one after the other.
template <int W, class V>
inline void interleave(const V& a, const V& b, V (&to)[2]) {
  if constexpr (W == 8) {
    to[0] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    to[1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  } else if constexpr (W == 4) {
    to[0] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    to[1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  } else {
    static_assert(W == 2);
    to[0] = __builtin_shufflevector(a, b, 0, 2);
    to[1] = __builtin_shufflevector(a, b, 1, 3);
  }
}

// Numbers in [-1/2, 1/2) from random words: multiples of 2^-24, so the same in float and in double.
template <class T, int W>
inline Vector<T, W> centered(Vector<uint32_t, W> word) {
  return __builtin_convertvector(bit_cast<Vector<int32_t, W>>(word >> 8) - (1 << 23), Vector<T, W>) * T(0x1p-24);
}

}  // namespace dkic::DKIC_ISA
