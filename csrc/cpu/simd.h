// Vectors by GCC/Clang extensions, and loads and stores that convert half and bfloat16.
//
// All of this is in an inline namespace of the instruction set it is compiled for (DKIC_ISA), and uses nothing from the standard
// library: the linker merges the instances of a template from all files into one, which might be AVX-512 code on a machine
// without AVX-512.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef DKIC_ISA
#define DKIC_ISA baseline
#endif

namespace dkic::DKIC_ISA {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T, int W>
using Vector = typename VectorOf<T, W>::type;

template <bool First, class A, class B>
struct Either {
  using type = A;
};
template <class A, class B>
struct Either<false, A, B> {
  using type = B;
};

// The integer type of the same size as T.
template <class T>
struct IntOf {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Converts half, whose bits are in the lower half of each lane, to float and back, rounding to nearest even.
template <int W>
inline Vector<float, W> half_to_float(Vector<int32_t, W> bits) {
  using V = Vector<float, W>;
  using VI = Vector<int32_t, W>;
  const VI sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13;
  // The exponent is rebiased by a multiplication with 2^112, which is exact for subnormals too.
  const VI finite = bit_cast<VI>(bit_cast<V>(rest) * 0x1p112f);
  return bit_cast<V>(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : finite));
}
template <int W>
inline Vector<int32_t, W> float_to_half(Vector<float, W> v) {
  using VI = Vector<int32_t, W>;
  const VI bits = bit_cast<VI>(v), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff, zero = {};
  const VI normal = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  // subnormal in half: adding 0.5 lets the adder round to the right bit
  const VI small = bit_cast<VI>(bit_cast<Vector<float, W>>(rest) + 0.5f) - 0x3f000000;
  const VI finite = rest < 0x38800000 ? small : normal, special = rest > 0x7f800000 ? zero + 0x7e00 : zero + 0x7c00;
  return sign | (rest >= 0x47800000 ? special : finite);
}

// load<W>(p): W elements from an unaligned address, as the type arithmetic is done in (float; double for double).
template <int W>
inline Vector<float, W> load(const float* p) {
  Vector<float, W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <int W>
inline Vector<double, W> load(const double* p) {
  Vector<double, W> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <int W>
inline Vector<float, W> load(const bfloat16* p) {
  // By an intrinsic: GCC 12 converts such a vector lane by lane (14.6 ms instead of 10.5 for ldcn with 16 channels).
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return bit_cast<Vector<float, W>>(_mm512_maskz_slli_epi32(0xffff, wide, 16));
  }
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) {  // the load fills both halves of the register; then each byte is moved to its position
    const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const Vector<int8_t, 32> from = {-1, -1, 0, 1, -1, -1, 2,  3,  -1, -1, 4,  5,  -1, -1, 6,  7,
                                     -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15};
    return bit_cast<Vector<float, W>>(_mm256_shuffle_epi8(twice, bit_cast<__m256i>(from)));
  }
#endif
  Vector<uint16_t, W> bits;
  std::memcpy(&bits, p, sizeof bits);
  return bit_cast<Vector<float, W>>(__builtin_convertvector(bits, Vector<uint32_t, W>) << 16);
}
template <int W>
inline Vector<float, W> load(const half* p) {
#if defined(__AVX512F__)
  if constexpr (W == 16)  // maskz: the plain form causes a warning about an uninitialized value in GCC 12
    return bit_cast<Vector<float, W>>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#endif
#if defined(__F16C__)
  if constexpr (W == 8) return bit_cast<Vector<float, W>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  if constexpr (W == 4) return bit_cast<Vector<float, W>>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
  Vector<uint16_t, W> bits;
  std::memcpy(&bits, p, sizeof bits);
  return half_to_float<W>(__builtin_convertvector(bits, Vector<int32_t, W>));
}

#if defined(__AVX512F__)
// Exchanges lanes 4 to 7 and 8 to 11: the order that a load of 16 bfloat16 and one more instruction give.
inline Vector<float, 16> exchange_quarters(Vector<float, 16> v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
}
inline Vector<float, 16> load_exchanged(const bfloat16* p) {
  const __m512i twice = _mm512_maskz_broadcast_i64x4(0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  // clang-format off
  const Vector<int8_t, 64> from = {-1, -1, 0, 1, -1, -1, 2,  3,  -1, -1, 4,  5,  -1, -1, 6,  7,
                                   -1, -1, 0, 1, -1, -1, 2,  3,  -1, -1, 4,  5,  -1, -1, 6,  7,
                                   -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15,
                                   -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15};
  // clang-format on
  return bit_cast<Vector<float, 16>>(_mm512_shuffle_epi8(twice, bit_cast<__m512i>(from)));
}
#endif

// load_each<W>(p, v): NV consecutive vectors, in a lane order that depends on the type and that store_each undoes. Two vectors of
// bfloat16 are the even and the odd elements of one load: half the loads, and no widening.
template <int W, class T, class V, int NV>
inline void load_each(const T* p, V (&v)[NV]) {
  for (int i = 0; i < NV; ++i) v[i] = load<W>(p + i * W);
}
template <int W, class V, int NV>
inline void load_each(const bfloat16* p, V (&v)[NV]) {
  for (int i = 0; i + 1 < NV; i += 2) {
    Vector<uint32_t, W> pairs;
    std::memcpy(&pairs, p + i * W, sizeof pairs);
    v[i] = bit_cast<V>(pairs << 16);
    v[i + 1] = bit_cast<V>(pairs & 0xffff0000u);
  }
#if defined(__AVX512F__)
  if constexpr (NV % 2 && W == 16) {
    v[NV - 1] = load_exchanged(p + (NV - 1) * W);
    return;
  }
#endif
  if constexpr (NV % 2) v[NV - 1] = load<W>(p + (NV - 1) * W);
}

// store<W>(p, v): rounds to nearest even.
template <int W>
inline void store(float* p, Vector<float, W> v) {
  std::memcpy(p, &v, sizeof v);
}
template <int W>
inline void store(double* p, Vector<double, W> v) {
  std::memcpy(p, &v, sizeof v);
}
// The bits of bfloat16 in the lower half of each lane.
template <int W>
inline Vector<uint32_t, W> round_to_bfloat16(Vector<float, W> v) {
  const auto bits = bit_cast<Vector<uint32_t, W>>(v);
  const Vector<uint32_t, W> rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, nan = bits >> 16 | 0x40u;
  return (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
}
template <int W>
inline void store(bfloat16* p, Vector<float, W> v) {
  const auto bits = __builtin_convertvector(round_to_bfloat16<W>(v), Vector<uint16_t, W>);
  std::memcpy(p, &bits, sizeof bits);
}
template <int W>
inline void store(half* p, Vector<float, W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                               _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__F16C__)
  if constexpr (W == 8)
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
  if constexpr (W == 4)
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_cvtps_ph(bit_cast<__m128>(v), _MM_FROUND_TO_NEAREST_INT));
#endif
  const auto bits = __builtin_convertvector(float_to_half<W>(v), Vector<uint16_t, W>);
  std::memcpy(p, &bits, sizeof bits);
}

template <int W, class T, class V, int NV>
inline void store_each(T* p, const V (&v)[NV]) {
  for (int i = 0; i < NV; ++i) store<W>(p + i * W, v[i]);
}
template <int W, class V, int NV>
inline void store_each(bfloat16* p, const V (&v)[NV]) {
  for (int i = 0; i + 1 < NV; i += 2) {
    const auto pairs = round_to_bfloat16<W>(v[i]) | round_to_bfloat16<W>(v[i + 1]) << 16;
    std::memcpy(p + i * W, &pairs, sizeof pairs);
  }
#if defined(__AVX512F__)
  if constexpr (NV % 2 && W == 16) return store<W>(p + (NV - 1) * W, exchange_quarters(v[NV - 1]));
#endif
  if constexpr (NV % 2) store<W>(p + (NV - 1) * W, v[NV - 1]);
}

// Integers to int64. By an intrinsic: GCC 12 moves vectors twice as wide as its registers through memory.
template <int W>
inline void store_int64(int64_t* p, Vector<int32_t, W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16) {
    const __m256i low = _mm512_maskz_extracti64x4_epi64(0xff, bit_cast<__m512i>(v), 0);
    const __m256i high = _mm512_maskz_extracti64x4_epi64(0xff, bit_cast<__m512i>(v), 1);
    _mm512_storeu_si512(p, _mm512_maskz_cvtepi32_epi64(0xff, low));
    return _mm512_storeu_si512(p + 8, _mm512_maskz_cvtepi32_epi64(0xff, high));
  }
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) {
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(bit_cast<__m256i>(v)));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(bit_cast<__m256i>(v), 1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), low);
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 4), high);
  }
#endif
  for (int i = 0; i < W; ++i) p[i] = v[i];
}
template <int W>
inline void store_int64(int64_t* p, Vector<int64_t, W> v) {
  std::memcpy(p, &v, sizeof v);
}

// Rounds to the nearest integer, half to even.
template <class T, int W>
inline Vector<T, W> nearest(Vector<T, W> x) {
  using V = Vector<T, W>;
  const T all_integers = sizeof(T) == 8 ? T(0x1p52) : T(0x1p23);  // all numbers from here on are integers
  const V shift = x < T(0) ? V{} - all_integers : V{} + all_integers, rounded = (x + shift) - shift;
  return (x < all_integers) & (x > -all_integers) ? rounded : x;
}

// The largest integer not above x, for |x| < 2^31 (2^63 in double).
template <class T, int W>
inline Vector<T, W> floor_of(Vector<T, W> x) {
#if defined(__AVX512F__)
  if constexpr (W * sizeof(T) == 64) {
    if constexpr (sizeof(T) == 4) return bit_cast<Vector<T, W>>(_mm512_maskz_roundscale_ps(0xffff, bit_cast<__m512>(x), 1));
    if constexpr (sizeof(T) == 8) return bit_cast<Vector<T, W>>(_mm512_maskz_roundscale_pd(0xff, bit_cast<__m512d>(x), 1));
  }
#endif
#if defined(__AVX2__)
  if constexpr (W * sizeof(T) == 32) {
    if constexpr (sizeof(T) == 4) return bit_cast<Vector<T, W>>(_mm256_floor_ps(bit_cast<__m256>(x)));
    if constexpr (sizeof(T) == 8) return bit_cast<Vector<T, W>>(_mm256_floor_pd(bit_cast<__m256d>(x)));
  }
#endif
  using Int = typename IntOf<T>::type;
  const Vector<T, W> truncated = __builtin_convertvector(__builtin_convertvector(x, Vector<Int, W>), Vector<T, W>);
  return truncated > x ? truncated - T(1) : truncated;
}

// Whether any lane of the result of a comparison is true.
template <class V>
inline bool any(const V& mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_test_epi32_mask(bit_cast<__m512i>(mask), bit_cast<__m512i>(mask)) != 0;
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return _mm256_movemask_epi8(bit_cast<__m256i>(mask)) != 0;
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16) return _mm_movemask_epi8(bit_cast<__m128i>(mask)) != 0;
#endif
  uint64_t words[sizeof(V) / 8], found = 0;
  std::memcpy(words, &mask, sizeof words);
  for (const uint64_t word : words) found |= word;
  return found != 0;
}

// Prefetches the cache lines of count elements into the second-level cache: the first-level cache is too small for data that is
// not needed at once (ldcn's forward: 12.4 ms with the first, 11.4 ms with the second).
template <class T>
inline void prefetch(const T* p, int64_t count) {
  const char *line = reinterpret_cast<const char*>(uintptr_t(p) & ~uintptr_t(63)),
             *end = reinterpret_cast<const char*>(p + count);
  for (; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// Lanes 0 2 4 ... and lanes 1 3 5 ... of two concatenated vectors.
template <class T, int W>
inline Vector<T, W> even_lanes(const Vector<T, W>& a, const Vector<T, W>& b) {
  if constexpr (W == 16)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  else if constexpr (W == 8)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  else if constexpr (W == 4)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6);
  else
    return __builtin_shufflevector(a, b, 0, 2);
}
template <class T, int W>
inline Vector<T, W> odd_lanes(const Vector<T, W>& a, const Vector<T, W>& b) {
  if constexpr (W == 16)
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  else if constexpr (W == 8)
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  else if constexpr (W == 4)
    return __builtin_shufflevector(a, b, 1, 3, 5, 7);
  else
    return __builtin_shufflevector(a, b, 1, 3);
}

template <class T, int W>
inline Vector<T, W / 2> low_half(const Vector<T, W>& v) {
  Vector<T, W / 2> half;
  std::memcpy(&half, &v, sizeof half);
  return half;
}
template <class T, int W>
inline Vector<T, W / 2> high_half(const Vector<T, W>& v) {
  Vector<T, W / 2> half;
  std::memcpy(&half, reinterpret_cast<const char*>(&v) + sizeof half, sizeof half);
  return half;
}

// The sum of the lanes by repeated halving, always in the same order of additions.
template <class T, int W>
inline T sum(const Vector<T, W>& v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    return sum<T, W / 2>(low_half<T, W>(v) + high_half<T, W>(v));
  }
}

// to[i] += sum(v[i]) for four vectors, with a transposition if they are wide enough: 11 instructions of AVX2 instead of 24.
template <class T, int W>
inline void add_sums(T* to, const Vector<T, W> (&v)[4]) {
  if constexpr (W < 4) {
    for (int i = 0; i < 4; ++i) to[i] += sum<T, W>(v[i]);
  } else if constexpr (W == 4) {
    const auto pairs01 = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5) + __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    const auto pairs23 = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5) + __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    const Vector<T, W> sums =
        __builtin_shufflevector(pairs01, pairs23, 0, 1, 4, 5) + __builtin_shufflevector(pairs01, pairs23, 2, 3, 6, 7);
    store<W>(to, load<W>(to) + sums);
  } else if constexpr (W == 8) {  // as for 4, in both halves at once
    const auto pairs01 = __builtin_shufflevector(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13) +
                         __builtin_shufflevector(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const auto pairs23 = __builtin_shufflevector(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13) +
                         __builtin_shufflevector(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
    const Vector<T, W> sums = __builtin_shufflevector(pairs01, pairs23, 0, 1, 8, 9, 4, 5, 12, 13) +
                              __builtin_shufflevector(pairs01, pairs23, 2, 3, 10, 11, 6, 7, 14, 15);
    store<4>(to, load<4>(to) + (low_half<T, W>(sums) + high_half<T, W>(sums)));
  } else {
    const Vector<T, W / 2> half[4] = {low_half<T, W>(v[0]) + high_half<T, W>(v[0]), low_half<T, W>(v[1]) + high_half<T, W>(v[1]),
                                      low_half<T, W>(v[2]) + high_half<T, W>(v[2]), low_half<T, W>(v[3]) + high_half<T, W>(v[3])};
    add_sums<T, W / 2>(to, half);
  }
}

}  // namespace dkic::DKIC_ISA
