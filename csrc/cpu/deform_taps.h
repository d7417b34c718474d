// The taps of a deformable aggregation: their addresses, bilinear weights, and which corners are inside the image. Included by
// ldcn_kernel.cpp and deform_conv2d_kernel.cpp.
#pragma once
#include "common/corners.h"
#include "common/ldcn_arguments.h"
#include "cpu/bilinear.h"
#include "cpu/buffer.h"

namespace dkic::DKIC_ISA {
namespace {

template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

constexpr int64_t kTile = 144;  // taps computed at once if K allows: 16 positions of a 3x3 kernel, 5 to 9 KB

// As many taps as a vector has lanes. The distances between the arrays are constants, so a loop over taps needs one register for
// all arrays; with pointers to separate arrays, registers spill (ldcn's forward: 10.0 ms instead of 8.7).
template <class T>
struct TapBlock {
  using A = typename Accumulator<T>::type;
  using I = typename IntOf<A>::type;
  static constexpr int W = kVectorBytes / int(sizeof(A));

  alignas(64) A weight[4][W];  // of corners (0,0) (0,1) (1,0) (1,1), times the mask; 0 for a corner outside
  int64_t start[W];            // of corner (0,0), in elements
  I inside[W];  // set of the corners (kCorner00, ...) inside the image; for the bits from kGradientShift see Border
  A fraction_y[W], fraction_x[W];
};

// One tap of a block.
template <class T>
struct Tap {
  using A = typename Accumulator<T>::type;
  const TapBlock<T>& block;
  uint64_t lane;
  A weight(int corner) const { return block.weight[corner][lane]; }
  int64_t start() const { return block.start[lane]; }
  int inside() const { return int(block.inside[lane]); }
  A fraction_y() const { return block.fraction_y[lane]; }
  A fraction_x() const { return block.fraction_x[lane]; }
};

// The gradient of a position of exactly -1: zero, or the one-sided derivative from inside the image. For the latter, the bits of
// `inside` from kGradientShift on are the set of the corners that the position's gradient uses: those inside and, at -1, where
// none is inside, those at 0.
enum class Border { zero_gradient, inner_gradient };
constexpr int kGradientShift = kCorners;

// The taps of up to `positions` adjacent positions of one output row in one group. Tap k of position p is entry
// p * position_step + k * tap_step: the order of offset in memory, so that it is read in runs.
template <class T, Border kBorder>
struct Taps {
  using A = typename Accumulator<T>::type;
  using I = typename IntOf<A>::type;
  static constexpr int W = TapBlock<T>::W;

  explicit Taps(const LdcnArguments& a)
      : args(a),
        k(a.kernel_h * a.kernel_w),
        positions(minimum(k < kTile ? kTile / k : 1, a.out_width)),
        channels_adjacent(a.offset.c == 1),
        position_step(channels_adjacent ? k : 1),
        tap_step(channels_adjacent ? 1 : positions),
        size((positions * k + W - 1) / W * W),
        // strides of x, whose layout the caller chooses, and of the plane in which its gradient is summed
        narrow(fits_int32(a.x.h, a.height) && fits_int32(a.x.w, a.width) && fits_int32(a.width * a.channels + 64, a.height)),
        // zeros: lanes past the last tap are computed too
        numbers(size * 5),
        tap_blocks(size / W) {
    row = numbers.data(), column = row + size, m = row + 2 * size, offsets = row + 3 * size;
    blocks = tap_blocks.data();
    // Sampling positions without offsets of output row 0, from column 0, before the padding.
    for (int64_t p = 0; p < positions; ++p)
      for (int64_t i = 0, tap = 0; i < a.kernel_h; ++i)
        for (int64_t j = 0; j < a.kernel_w; ++j, ++tap) {
          const int64_t t = p * position_step + tap * tap_step;
          row[t] = A(i * a.dilation_h);
          column[t] = A(p * a.stride_w + j * a.dilation_w);
        }
  }
  int64_t count_from(int64_t ow) const { return minimum(positions, args.out_width - ow); }

  Tap<T> operator[](int64_t t) const { return {blocks[uint64_t(t) / W], uint64_t(t) % W}; }

  // Computes all taps of output columns [ow, ow + count) of row oh, in group g of image n. Corner (0, 0) of a tap is at its
  // start() in an image whose rows and columns are h and w elements apart.
  void compute(int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count, int64_t h, int64_t w) {
    gather_offsets(n, g, oh, ow, count);
    if (args.mask.data) gather_mask(n, g, oh, ow, count);
    const A down = A(oh * args.stride_h - args.padding_h), right = A(ow * args.stride_w - args.padding_w);
    const A height = A(args.height), width = A(args.width);
    const int64_t end = channels_adjacent ? count * k : positions * k;
    // Local copies: the compiler must assume that stores through the members change the members.
    const A *const rows = row, *const columns = column, *const from = offsets, *const masks = args.mask.data ? m : nullptr;
    TapBlock<T>* block = blocks;
    const int64_t array = size;
    const bool adjacent = channels_adjacent, multiply_narrow = narrow;
    Vector<I, W> all = Vector<I, W>{} + I(kAllCorners);
    for (int64_t t = 0; t < end; t += W, ++block) {
      Vector<A, W> dy, dx;
      if (adjacent) {
        const auto low = load<W>(from + 2 * t), high = load<W>(from + 2 * t + W);
        dy = even_lanes<A, W>(low, high), dx = odd_lanes<A, W>(low, high);
      } else {
        dy = load<W>(from + t), dx = load<W>(from + array + t);
      }
      const auto y = sample_axis<A, I, W>((load<W>(rows + t) + down) + dy, height);
      const auto x = sample_axis<A, I, W>((load<W>(columns + t) + right) + dx, width);
      store<W>(block->fraction_y, y.fraction);
      store<W>(block->fraction_x, x.fraction);
      const Vector<A, W> mask = masks ? load<W>(masks + t) : Vector<A, W>{} + A(1);
      const auto my = mask * y.fraction, mx = mask - my;
      const auto v11 = my * x.fraction, v01 = mx * x.fraction;
      const Vector<I, W> inside[4] = {y.low_inside & x.low_inside, y.low_inside & x.high_inside, y.high_inside & x.low_inside,
                                      y.high_inside & x.high_inside};
      const Vector<A, W> weight[4] = {mx - v01, v01, my - v11, v11}, zero{};
      for (int corner = 0; corner < 4; ++corner) store<W>(block->weight[corner], inside[corner] ? weight[corner] : zero);
      if (multiply_narrow) {
        store_int64<W>(block->start, y.low * I(h) + x.low * I(w));
      } else {
        for (int lane = 0; lane < W; ++lane) block->start[lane] = int64_t(y.low[lane]) * h + int64_t(x.low[lane]) * w;
      }
      Vector<I, W> corners =
          (inside[0] & I(kCorner00)) | (inside[1] & I(kCorner01)) | (inside[2] & I(kCorner10)) | (inside[3] & I(kCorner11));
      all &= corners;
      if constexpr (kBorder == Border::inner_gradient)
        corners |= (inside[0] & I(kCorner00 << kGradientShift)) |
                   (y.low_inside & x.high_exists & I(kCorner01 << kGradientShift)) |
                   (y.high_exists & x.low_inside & I(kCorner10 << kGradientShift)) |
                   (y.high_exists & x.high_exists & I(kCorner11 << kGradientShift));
      std::memcpy(block->inside, &corners, sizeof corners);
    }
    all_inside = !any(all != I(kAllCorners));
  }

  const LdcnArguments& args;
  const int64_t k, positions;
  const bool channels_adjacent;
  const int64_t position_step, tap_step;
  const int64_t size;  // of each array
  A *row, *column, *m;
  TapBlock<T>* blocks;
  bool all_inside;  // all corners of all taps are inside

 private:
  static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
  // Whether a row or column beyond the last, times its step, can be multiplied and added in int32.
  static bool fits_int32(int64_t step, int64_t size) { return step >= 0 && step <= (int64_t(1) << 30) / (size + 2); }

  // In vectors; the last one may overlap the previous one, so that there is no scalar remainder.
  template <int L, class S>
  static void copy_run(A* to, const S* from, int64_t count) {
    const auto some = [&](int64_t i) { store<L>(to + i, __builtin_convertvector(load<L>(from + i), Vector<A, L>)); };
    if constexpr (L > 1)
      if (count < L) return copy_run<L / 2>(to, from, count);
    for (int64_t i = 0; i < count - L; i += L) some(i);
    if (count > 0) some(count - L);
  }

  // Copies a run of offsets or masks, and prefetches the run one output row (`below` elements) further down, which is needed
  // soon: hardware prefetchers do not predict many short runs.
  template <class S>
  static void copy(A* to, const S* from, int64_t step, int64_t count, int64_t below) {
    prefetch(from + below, step == 1 ? count : 1);
    if (step == 1) {
      copy_run<kVectorBytes / int(sizeof(S) > sizeof(A) ? sizeof(S) : sizeof(A))>(to, from, count);
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = A(load<1>(from + i * step)[0]);
    }
  }
  // Calls f with `from`'s data as a typed pointer to output pixel (n, channel, oh, ow).
  template <class F>
  static void typed(const Strided& from, int64_t n, int64_t channel, int64_t oh, int64_t ow, const F& f) {
    const int64_t at = n * from.n + channel * from.c + oh * from.h + ow * from.w;
    with_scalar<half, bfloat16>(from.type, [&]<class S>() { f(static_cast<const S*>(from.data) + at); });
  }
  void gather_offsets(int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count) {
    const Strided& from = args.offset;
    const int64_t below = oh + 1 < args.out_height ? from.h : 0;
    typed(from, n, g * k * 2, oh, ow, [&](auto* base) {
      if (channels_adjacent) {
        for (int64_t p = 0; p < count; ++p) copy(offsets + p * k * 2, base + p * from.w, 1, k * 2, below);
      } else {
        for (int64_t tap = 0; tap < k; ++tap) {
          copy(offsets + tap * tap_step, base + 2 * tap * from.c, from.w, count, below);
          copy(offsets + size + tap * tap_step, base + (2 * tap + 1) * from.c, from.w, count, below);
        }
      }
    });
  }
  void gather_mask(int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count) {
    const Strided& from = args.mask;
    const int64_t below = oh + 1 < args.out_height ? from.h : 0;
    typed(from, n, g * k, oh, ow, [&](auto* base) {
      if (channels_adjacent)
        for (int64_t p = 0; p < count; ++p) copy(m + p * k, base + p * from.w, from.c, k, below);
      else
        for (int64_t tap = 0; tap < k; ++tap) copy(m + tap * tap_step, base + tap * from.c, from.w, count, below);
    });
  }

  const bool narrow;
  const Buffer<A> numbers;
  const Buffer<TapBlock<T>> tap_blocks;
  A* offsets;  // length of two arrays; dy and dx interleaved if channels are adjacent, else all dy and then all dx
};

}  // namespace
}  // namespace dkic::DKIC_ISA
