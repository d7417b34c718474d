// Bits or likelihoods of a tile of residuals. The lanes of vectors that have narrow and wide lanes are packed and computed
// together; otherwise such vectors would take the time of both formulas.
#pragma once
#include "cpu/gaussian_bits.h"
#include "cpu/traversal_tiles.h"

namespace dkic::DKIC_ISA {

template <class T>
class GaussianTile {
 public:
  // v and s (> 0), up to a multiple of a vector's length; results likewise, of derivatives only if they are wanted.
  template <BinOutput kOutput, bool kDerivatives>
  void work(const T* v, const T* s, int count, T* value, T* by_v, T* by_scale) {
    int begin = 0, mixed = 0, narrows = 0, wides = 0;
    M run{};  // the lanes that are narrow, of all vectors from `begin`
    const auto end_run = [&](int end) {
      const auto work_run = run.all() ? narrow<kOutput, kDerivatives> : wide<kOutput, kDerivatives>;
      if (run.all() || !run.any()) work_run(v + begin, s + begin, end - begin, value + begin, by_v + begin, by_scale + begin);
      begin = end;
    };
    for (int i = 0; i < count; i += W) {
      const V one_v = load<W>(v + i), one_s = load<W>(s + i);
      const M is_narrow = Bin::is_narrow(one_v, one_s);
      if (is_narrow.all() != run.all() || is_narrow.any() != run.any()) end_run(i), run = is_narrow;
      if (is_narrow.any() && !is_narrow.all()) {
        mixed_[mixed++] = {i, is_narrow};
        is_narrow.pack(one_s, narrow_.s + narrows);
        narrows += is_narrow.pack(one_v, narrow_.v + narrows);
        (~is_narrow).pack(one_s, wide_.s + wides);
        wides += (~is_narrow).pack(one_v, wide_.v + wides);
      }
    }
    end_run(count);
    if (mixed == 0) return;
    narrow<kOutput, kDerivatives>(narrow_.v, narrow_.s, narrows, narrow_.v, narrow_.s, narrow_.by_scale);
    wide<kOutput, kDerivatives>(wide_.v, wide_.s, wides, wide_.v, wide_.s, wide_.by_scale);
    narrows = wides = 0;
    for (int k = 0; k < mixed; ++k) {
      const auto [i, is_narrow] = mixed_[k];
      const auto unpack = [&, lanes = is_narrow](const T* from_narrow, const T* from_wide) {
        return lanes.unpack(from_narrow + narrows, (~lanes).unpack(from_wide + wides, V{}));
      };
      store<W>(value + i, unpack(narrow_.v, wide_.v));
      if constexpr (kDerivatives) {
        store<W>(by_v + i, unpack(narrow_.s, wide_.s));
        store<W>(by_scale + i, unpack(narrow_.by_scale, wide_.by_scale));
      }
      const int count_narrow = __builtin_popcount(is_narrow.bits());
      narrows += count_narrow, wides += W - count_narrow;
    }
  }

 private:
  static constexpr int W = kVectorBytes / int(sizeof(T));
  using V = Vector<T, W>;
  using M = Mask<T, W>;
  using Bin = GaussianBin<T, W>;

  // One copy of the code of each formula, so that the result of a number does not depend on its position.
  template <BinOutput kOutput, bool kDerivatives>
  [[gnu::noinline]] static void narrow(const T* v, const T* s, int count, T* value, T* by_v, T* by_scale) {
    for (int i = 0; i < count; i += W)
      write<kDerivatives>(Bin::template narrow<kOutput, kDerivatives>(load<W>(v + i), load<W>(s + i)), value + i, by_v + i,
                          by_scale + i);
  }
  template <BinOutput kOutput, bool kDerivatives>
  [[gnu::noinline]] static void wide(const T* v, const T* s, int count, T* value, T* by_v, T* by_scale) {
    for (int i = 0; i < count; i += W)
      write<kDerivatives>(Bin::template wide<kOutput, kDerivatives>(load<W>(v + i), load<W>(s + i)), value + i, by_v + i,
                          by_scale + i);
  }
  template <bool kDerivatives>
  static inline void write(const Bin& result, T* value, T* by_v, T* by_scale) {
    store<W>(value, result.value);
    if constexpr (kDerivatives) {
      store<W>(by_v, result.by_v);
      store<W>(by_scale, result.by_scale);
    }
  }

  // Lanes of one formula; the results overwrite them.
  struct Packed {
    alignas(64) T v[kTile + W]{}, s[kTile + W]{}, by_scale[kTile + W]{};
  };
  struct Mixed {
    int at;
    M narrow;
  };
  Mixed mixed_[kTile / W];
  Packed narrow_, wide_;
};

}  // namespace dkic::DKIC_ISA
