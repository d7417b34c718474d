// Bilinear sampling of a zero-padded image: position, weights of the four corners, and which corners are inside.
//
// Torch-free and vectorized over taps. Semantics as in torchvision: a corner outside the image is 0, and so is a sample with a
// coordinate <= -1 or >= the size. At exactly -1, the gradient of the position is 0 in ldcn; in deform_conv2d, as in torchvision,
// it is the one-sided derivative from inside the image. A NaN position gives NaN weights for corner (0, 0).
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

template <class I>
struct UnsignedOf {
  using type = uint32_t;
};
template <>
struct UnsignedOf<int64_t> {
  using type = uint64_t;
};

// Along one axis: floor of the position, fraction toward the next sample, and masks (0 or ~0) of whether the two corners are
// inside. high_exists is high_inside, but also set where the position is exactly -1.
template <class T, class I, int W>
struct AxisSample {
  Vector<I, W> low;
  Vector<T, W> fraction;
  Vector<I, W> low_inside, high_inside, high_exists;
};

template <class T, class I, int W>
inline AxisSample<T, I, W> sample_axis(Vector<T, W> position, T size) {
  static_assert(sizeof(T) == sizeof(I));
  using V = Vector<T, W>;
  using VI = Vector<I, W>;
  using Unsigned = Vector<typename UnsignedOf<I>::type, W>;
  const V zero = {}, below = zero - T(2), above = zero + (size + T(1));
  // Clamped before the conversion to an integer, which is undefined out of range; NaN becomes 0.
  V p = position > below ? position : below;
  p = p < above ? p : above;
  p = position == position ? p : zero;
  const V low = floor_of<T, W>(p);
  AxisSample<T, I, W> s;
  s.low = __builtin_convertvector(low, VI);
  s.fraction = position - low;
  // Compared as unsigned numbers, so that negative numbers exceed the size.
  const Unsigned count = Unsigned{} + typename UnsignedOf<I>::type(size);
  s.low_inside = bit_cast<Unsigned>(s.low) < count;
  s.high_exists = bit_cast<Unsigned>(s.low + I(1)) < count;
  s.high_inside = s.high_exists & (p > T(-1));
  return s;
}

}  // namespace dkic::DKIC_ISA
