// Lane masks, the results of vector comparisons: selection, packing of the set lanes, and unpacking.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each subset of eight lanes: the numbers of its lanes in order, and the position of each lane in that order.
struct LaneSets {
  uint8_t lane[256][8], place[256][8];
  constexpr LaneSets() : lane{}, place{} {
    for (int set = 0; set < 256; ++set)
      for (int i = 0, count = 0; i < 8; ++i)
        if (set >> i & 1) lane[set][count] = uint8_t(i), place[set][i] = uint8_t(count++);
  }
};
inline constexpr LaneSets kLaneSets{};
#endif

// With AVX-512 the mask stays in a mask register: GCC's vector comparisons move it to a vector and test the vector again at each
// use (20 % of gaussian_bits' instructions).
template <class T, int W>
struct Mask {
  using V = Vector<T, W>;
#if defined(__AVX512F__)
  static constexpr bool kRegister = W * sizeof(T) == 64;
#else
  static constexpr bool kRegister = false;
#endif
  using Lanes = typename Either<kRegister, uint16_t, Vector<typename IntOf<T>::type, W>>::type;
  static constexpr uint16_t kAll = uint16_t((1u << W) - 1);
  Lanes lanes;

  static Mask less(V a, V b) {
#if defined(__AVX512F__)
    if constexpr (kRegister && sizeof(T) == 4) return {_mm512_cmp_ps_mask(bit_cast<__m512>(a), bit_cast<__m512>(b), _CMP_LT_OQ)};
    if constexpr (kRegister && sizeof(T) == 8)
      return {_mm512_cmp_pd_mask(bit_cast<__m512d>(a), bit_cast<__m512d>(b), _CMP_LT_OQ)};
#endif
    if constexpr (!kRegister) return {a < b};
  }
  static Mask equal(V a, V b) {
#if defined(__AVX512F__)
    if constexpr (kRegister && sizeof(T) == 4) return {_mm512_cmp_ps_mask(bit_cast<__m512>(a), bit_cast<__m512>(b), _CMP_EQ_OQ)};
    if constexpr (kRegister && sizeof(T) == 8)
      return {_mm512_cmp_pd_mask(bit_cast<__m512d>(a), bit_cast<__m512d>(b), _CMP_EQ_OQ)};
#endif
    if constexpr (!kRegister) return {a == b};
  }
  Mask operator&(Mask other) const { return {Lanes(lanes & other.lanes)}; }
  Mask operator~() const {
    if constexpr (kRegister)
      return {uint16_t(~lanes & kAll)};
    else
      return {~lanes};
  }

  // The lanes as bits; the first lane is the lowest bit.
  unsigned bits() const {
    if constexpr (kRegister) {
      return lanes;
    } else {
#if defined(__AVX2__)
      if constexpr (W == 8) return unsigned(_mm256_movemask_ps(bit_cast<__m256>(lanes)));
      if constexpr (W == 4 && sizeof(T) == 8) return unsigned(_mm256_movemask_pd(bit_cast<__m256d>(lanes)));
#endif
#if defined(__SSE2__)
      if constexpr (W == 4 && sizeof(T) == 4) return unsigned(_mm_movemask_ps(bit_cast<__m128>(lanes)));
      if constexpr (W == 2) return unsigned(_mm_movemask_pd(bit_cast<__m128d>(lanes)));
#endif
      unsigned set = 0;
      for (int i = 0; i < W; ++i) set |= unsigned(lanes[i] != 0) << i;
      return set;
    }
  }
  bool any() const { return bits() != 0; }
  bool all() const { return bits() == kAll; }

  V choose(V yes, V no) const {
#if defined(__AVX512F__)
    if constexpr (kRegister && sizeof(T) == 4)
      return bit_cast<V>(_mm512_mask_blend_ps(lanes, bit_cast<__m512>(no), bit_cast<__m512>(yes)));
    if constexpr (kRegister && sizeof(T) == 8)
      return bit_cast<V>(_mm512_mask_blend_pd(uint8_t(lanes), bit_cast<__m512d>(no), bit_cast<__m512d>(yes)));
#endif
    if constexpr (!kRegister) return lanes ? yes : no;
  }

  // Writes the set lanes of v to `to`, one after the other; any values may be written after them, up to a whole vector. Returns
  // the number of set lanes.
  int pack(V v, T* to) const {
    const unsigned set = bits();
#if defined(__AVX512F__)
    if constexpr (kRegister) {
      if constexpr (sizeof(T) == 4)
        _mm512_storeu_ps(to, _mm512_maskz_compress_ps(lanes, bit_cast<__m512>(v)));
      else
        _mm512_storeu_pd(to, _mm512_maskz_compress_pd(uint8_t(lanes), bit_cast<__m512d>(v)));
      return __builtin_popcount(set);
    }
#elif defined(__AVX2__)
    if constexpr (W == 8) {
      const __m256i from = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kLaneSets.lane[set])));
      _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(bit_cast<__m256>(v), from));
      return __builtin_popcount(set);
    }
#endif
    int count = 0;
    for (int i = 0; i < W; ++i) to[count] = v[i], count += int(set >> i & 1);
    return count;
  }

  // The inverse: set lanes get the numbers at `from` (a whole vector is read), the others those of `rest`.
  V unpack(const T* from, V rest) const {
#if defined(__AVX512F__)
    if constexpr (kRegister && sizeof(T) == 4)
      return bit_cast<V>(_mm512_mask_expand_ps(bit_cast<__m512>(rest), lanes, _mm512_loadu_ps(from)));
    if constexpr (kRegister && sizeof(T) == 8)
      return bit_cast<V>(_mm512_mask_expand_pd(bit_cast<__m512d>(rest), uint8_t(lanes), _mm512_loadu_pd(from)));
#elif defined(__AVX2__)
    if constexpr (W == 8) {
      const __m256i to = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kLaneSets.place[bits()])));
      return choose(bit_cast<V>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(from), to)), rest);
    }
#endif
    if constexpr (!kRegister) {
      const unsigned set = bits();
      for (int i = 0, next = 0; i < W; ++i)
        if (set >> i & 1) rest[i] = from[next++];
      return rest;
    }
  }
};

// a * b + c with one rounding if the machine supports it (kFused); whole vectors only.
#if defined(__FMA__) && defined(__AVX2__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif
template <class T, int W>
inline Vector<T, W> fused(Vector<T, W> a, Vector<T, W> b, Vector<T, W> c) {
  static_assert(kFused && W * sizeof(T) == kVectorBytes);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vector<T, W>>(_mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
  else
    return bit_cast<Vector<T, W>>(_mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
#elif defined(__FMA__) && defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vector<T, W>>(_mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
  else
    return bit_cast<Vector<T, W>>(_mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
#else
  return a * b + c;
#endif
}

}  // namespace dkic::DKIC_ISA
