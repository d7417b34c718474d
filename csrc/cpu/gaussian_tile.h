// Bits of a tile of residuals. The wide lanes of vectors that also have narrow lanes are packed and computed together; otherwise
// such vectors would take the time of both formulas.
#pragma once
#include "cpu/gaussian_bits.h"
#include "cpu/traversal_tiles.h"

namespace dkic::DKIC_ISA {

template <class T>
class GaussianTile {
 public:
  // v and s (> 0), up to a multiple of a vector's length; results likewise, of derivatives only if they are wanted.
  template <bool kDerivatives>
  void work(const T* v, const T* s, int count, T* bits, T* by_v, T* by_scale) {
    const Results to{bits, by_v, by_scale};
    int begin = 0, both = 0, packed = 0;
    bool narrow_run = true;
    const auto run = [&](int end) {  // of vectors of one way, from `begin`
      (narrow_run ? narrow<kDerivatives> : wide<kDerivatives>)(v + begin, s + begin, end - begin, to.from(begin));
      begin = end;
    };
    for (int i = 0; i < count; i += W) {
      const V one_v = load<W>(v + i), one_s = load<W>(s + i);
      const M narrow = Bits::is_narrow(one_v, one_s);
      if (narrow.any() != narrow_run) {
        run(i);
        narrow_run = !narrow_run;
      }
      if (narrow_run && !narrow.all()) {
        both_[both++] = {i, ~narrow};
        (~narrow).pack(one_s, s_ + packed);
        packed += (~narrow).pack(one_v, v_ + packed);
      }
    }
    run(count);
    if (both == 0) return;
    wide<kDerivatives>(v_, s_, packed, {v_, s_, by_scale_});  // over what was packed
    packed = 0;
    for (int k = 0; k < both; ++k) {
      const auto [i, lanes] = both_[k];
      store<W>(bits + i, lanes.unpack(v_ + packed, load<W>(bits + i)));
      if constexpr (kDerivatives) {
        store<W>(by_v + i, lanes.unpack(s_ + packed, load<W>(by_v + i)));
        store<W>(by_scale + i, lanes.unpack(by_scale_ + packed, load<W>(by_scale + i)));
      }
      packed += __builtin_popcount(lanes.bits());
    }
  }

 private:
  static constexpr int W = kVectorBytes / int(sizeof(T));
  using V = Vector<T, W>;
  using M = Mask<T, W>;
  using Bits = GaussianBits<T, W>;

  struct Results {
    T *bits, *by_v, *by_scale;
    Results from(int i) const { return {bits + i, by_v + i, by_scale + i}; }
    template <bool kDerivatives>
    void write(int i, const Bits& result) const {
      store<W>(bits + i, result.bits);
      if constexpr (kDerivatives) {
        store<W>(by_v + i, result.by_v);
        store<W>(by_scale + i, result.by_scale);
      }
    }
  };

  // One copy of the code of each formula, so that the bits of a number do not depend on its position.
  template <bool kDerivatives>
  [[gnu::noinline]] static void narrow(const T* v, const T* s, int count, Results to) {
    for (int i = 0; i < count; i += W)
      to.template write<kDerivatives>(i, Bits::template narrow<kDerivatives>(load<W>(v + i), load<W>(s + i)));
  }
  template <bool kDerivatives>
  [[gnu::noinline]] static void wide(const T* v, const T* s, int count, Results to) {
    for (int i = 0; i < count; i += W)
      to.template write<kDerivatives>(i, Bits::template wide<kDerivatives>(load<W>(v + i), load<W>(s + i)));
  }

  struct Both {
    int at;
    M wide;
  };
  Both both_[kTile / W];
  alignas(64) T v_[kTile + W]{}, s_[kTile + W]{}, by_scale_[kTile + W]{};
};

}  // namespace dkic::DKIC_ISA
