// The loops of deform_conv2d_kernel.cpp over pixels, runs of channels, and a pixel's taps.
#pragma once
#include "cpu/cover_channels.h"
#include "cpu/deform_conv2d_kernel.h"
#include "cpu/deform_taps.h"

namespace dkic::DKIC_ISA {
namespace {

using Arguments = DeformConv2dArguments;
using Range = DeformConv2dRange;
template <class T>
using ConvTaps = Taps<T, Border::inner_gradient>;

// Calls f(n, oh, ow, count, at) for pixels [first, last) in runs within a row and a strip; `at` counts from `first`. Strips are
// `strip` columns wide and go from top to bottom: the pixels that a block's taps read are fewer than with whole rows.
template <class F>
void for_pixels(const Arguments& a, int64_t strip, int64_t first, int64_t last, const F& f) {
  const int64_t area = a.out_height * a.out_width;
  for (int64_t pixel = first; pixel < last;) {
    const int64_t n = pixel / area, left = pixel % area / (strip * a.out_height) * strip;
    const int64_t width = a.out_width - left < strip ? a.out_width - left : strip, within = pixel % area - left * a.out_height;
    int64_t count = width - within % width;
    if (count > last - pixel) count = last - pixel;
    f(n, within / width, left + within % width, count, pixel - first);
    pixel += count;
  }
}

// Calls f(channel, count, column) for runs of adjacent channels in [begin, end): `count` channels are adjacent in the image and
// in a column, and the next tap's are a.run later; `column` counts from the column of `begin`.
template <class F>
void for_channels(const Arguments& a, int64_t begin, int64_t end, bool side_by_side, const F& f) {
  const int64_t count = side_by_side ? a.run : 1, k = a.kernel_h * a.kernel_w;
  for (int64_t channel = begin; channel < end; channel += count) {
    const int64_t within = channel % a.run;
    f(channel, count, (channel - within - begin) * k + within);
  }
}

// Which corners of a tap are inside, and which the gradient of its position uses.
struct AllInside {
  constexpr bool operator()(int) const { return true; }
  constexpr bool differentiated(int) const { return true; }
};
struct Inside {
  int bits;
  bool operator()(int bit) const { return bits >> bit & 1; }
  bool differentiated(int bit) const { return bits >> (bit + kGradientShift) & 1; }
};

// The taps of one pixel, in an image whose rows and columns are h and w elements apart.
template <class T>
struct PixelTaps {
  PixelTaps(const ConvTaps<T>& all, int64_t pixel, int64_t h, int64_t w)
      : taps(all), first(pixel * all.position_step), corner{h, w}, all_inside(all.all_inside || inside_everywhere()) {}

  // Calls f(number, tap, inside) for all taps. There is a separate loop for taps whose corners are all inside, as they are except
  // at the image's border: `inside` is a constant there.
  template <class F>
  void for_taps(const F& f) const {
    const int64_t step = taps.tap_step, k = taps.k;
    int64_t t = first;
    if (all_inside) [[likely]] {
      for (int64_t number = 0; number < k; ++number, t += step) f(number, taps[t], AllInside{});
    } else {
      for (int64_t number = 0; number < k; ++number, t += step) f(number, taps[t], Inside{taps[t].inside()});
    }
  }

  const ConvTaps<T>& taps;
  const int64_t first;
  const Corners corner;
  const bool all_inside;

 private:
  bool inside_everywhere() const {
    int all = kAllCorners;
    for (int64_t number = 0; number < taps.k; ++number) all &= taps[first + number * taps.tap_step].inside();
    return all == kAllCorners;
  }
};

// The sample around q; a corner outside contributes nothing, even if its weight is NaN. The sum is a chain, not a tree: in a
// tree, the compiler may fuse either of two products with their sum, so results could differ between callers.
template <int W, class T, class Inside>
inline auto blend(const T* q, const Corners& corner, const Tap<T>& tap, const Inside& inside) {
  Vector<typename Accumulator<T>::type, W> sum = {};
  for (int bit = 0; bit < kCorners; ++bit)
    if (inside(bit)) sum += tap.weight(bit) * load<W>(q + corner[bit]);
  return sum;
}

}  // namespace
}  // namespace dkic::DKIC_ISA
