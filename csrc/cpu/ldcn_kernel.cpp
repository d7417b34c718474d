// Lite DCN aggregation on the CPU. Compiled once per instruction set (DKIC_ISA); ldcn_cpu.cpp chooses one at run time.
//
// Taps (position, floor, weights, addresses) are computed a vector at a time, once per (position, group), into a small buffer;
// then each position's channels are accumulated over its taps. The taps take a quarter of forward's time. The rest is bound by
// loads of channels, of which those from the second-level cache cost 10 % (G=8) to 25 % (G=12).
#include "cpu/ldcn_kernel.h"

#include "cpu/buffer.h"
#include "cpu/cover_channels.h"
#include "cpu/deform_taps.h"

namespace dkic::DKIC_ISA {
namespace {

template <class T>
using LdcnTaps = Taps<T, Border::zero_gradient>;

// x is prefetched this many rows below the kernel.
constexpr int64_t kPrefetchRows = 8;

// Positions are processed in strips of a tile's width, strips in blocks of rows, and a block group by group. From one row to the
// next, more of the pixels that a group's taps read then stay in the first-level cache, and those of a block (20 rows of 28
// pixels, 430 KB with 192 channels and offsets of 5 pixels) in the second-level cache. Forward in ms by rows of a block, at
// 1x192x128x128, G=12, one thread of Zen 4: 1: 13.5, 4: 12.7, 8: 12.2, 16: 12.2; gradients of samples are slower with 16 than 8.
constexpr int64_t kBlockRows = 8;

// Near the border, branches on which corners are inside are mispredicted (6 % of the taps with offsets of 2 pixels, but 20 % of
// the time). So there, corners outside are read as zeros from another address, without a branch.
template <class T, bool kAllInside>
struct Blend {
  using A = typename Accumulator<T>::type;
  const LdcnTaps<T>& taps;
  int64_t count;  // positions
  const T *x, *zeros;
  Corners corner;
  T* y;
  int64_t y_step;

  // Half a vector of channels before or after the NV whole vectors.
  enum class Half { none, first, last };

  void cover(int64_t depth) const {
    // With 24 channels, one pass over the taps with 64 + 32 bytes takes 5 % less than with 3 x 32 (11 % for float16). The half
    // vector is placed so that the whole vector does not cross a cache line.
    constexpr int W = kVectorBytes / int(sizeof(A));
    if constexpr (kVectorBytes == 64)
      if (depth == W + W / 2) {
        const bool aligned = reinterpret_cast<uintptr_t>(x) % (W * sizeof(T)) == 0;
        return aligned ? run<W, 1, Half::last>(0) : run<W, 1, Half::first>(0);
      }
    cover_channels<A>(0, depth, *this);
  }

  template <int W, int NV, Half kHalf = Half::none>
  void run(int64_t channel) const {
    constexpr int H = W / 2, kWhole = kHalf == Half::first ? H : 0, kRest = kHalf == Half::first ? 0 : NV * W;
    struct Sum {
      Vector<A, W> whole[NV] = {};
      Vector<A, kHalf == Half::none ? 1 : H> half = {};
      [[gnu::always_inline]] void add(A weight, const T* q) {
        Vector<A, W> values[NV];
        load_each<W>(q + kWhole, values);
        for (int v = 0; v < NV; ++v) whole[v] += weight * values[v];
        if constexpr (kHalf != Half::none) half += weight * load<H>(q + kRest);
      }
    };
    const T *base = x + channel, *nothing = zeros + channel;
    T* to = y + channel;
    const int64_t step = taps.tap_step, position_step = taps.position_step, k = taps.k;
    for (int64_t p = 0; p < count; ++p, to += y_step) {
      Sum top, bottom;  // separate sums halve the chains of dependent additions: 4 to 8 % for half types
      int64_t t = p * position_step;
      for (int64_t left = k; left > 0; --left, t += step) {
        const Tap<T> tap = taps[t];
        const T *q00 = base + tap.start(), *q10 = q00 + corner.h, *q01 = q00 + corner.w, *q11 = q10 + corner.w;
        if constexpr (!kAllInside) {
          const int inside = tap.inside();
          q00 = inside & kCorner00 ? q00 : nothing, q01 = inside & kCorner01 ? q01 : nothing;
          q10 = inside & kCorner10 ? q10 : nothing, q11 = inside & kCorner11 ? q11 : nothing;
        }
        top.add(tap.weight(0), q00);
        bottom.add(tap.weight(2), q10);
        top.add(tap.weight(1), q01);
        bottom.add(tap.weight(3), q11);
      }
      for (int v = 0; v < NV; ++v) top.whole[v] += bottom.whole[v];
      store_each<W>(to + kWhole, top.whole);
      if constexpr (kHalf != Half::none) store<H>(to + kRest, top.half + bottom.half);
    }
  }
};

template <bool Value>
struct Constant {
  static constexpr bool value = Value;
};

// Calls f(n, g, oh, ow, count) for all groups and positions of rows [first, last).
template <class T, class F>
void for_positions(const LdcnArguments& a, LdcnTaps<T>& taps, int64_t first, int64_t last, const F& f) {
  for (int64_t ow = 0; ow < a.out_width; ow += taps.positions)
    for (int64_t top = first; top < last; top += kBlockRows)
      for (int64_t g = 0; g < a.groups; ++g)
        for (int64_t r = top; r < last && r < top + kBlockRows; ++r)
          f(r / a.out_height, g, r % a.out_height, ow, taps.count_from(ow));
}

template <class T>
void forward_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  LdcnTaps<T> taps(a);
  const int64_t depth = a.channels / a.groups;
  const Buffer<T> zeros(depth);
  for_positions(a, taps, first, last, [&](int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count) {
    const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * depth;
    T* y = static_cast<T*>(a.y) + ((n * a.out_height + oh) * a.out_width + ow) * a.channels + g * depth;
    // So far below that offsets of a few pixels do not reach it yet.
    const int64_t row = oh * a.stride_h - a.padding_h + a.dilation_h * (a.kernel_h - 1) + kPrefetchRows;
    const int64_t column = ow * a.stride_w;
    if (row >= 0 && row < a.height && column + count <= a.width)
      for (int64_t p = 0; p < count; ++p) prefetch(x + row * a.x.h + (column + p) * a.x.w, depth);
    taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
    const auto blend = [&](auto all_inside) {
      Blend<T, all_inside.value>{taps, count, x, zeros.data(), {a.x.h, a.x.w}, y, a.channels}.cover(depth);
    };
    if (taps.all_inside) {
      blend(Constant<true>{});
    } else {
      blend(Constant<false>{});
    }
  });
}

// Adds, for every tap t of a position, the dot products of its four corners with grad_y, over the channels, to dots[4 * t].
template <class T>
struct Dots {
  using A = typename Accumulator<T>::type;
  const LdcnTaps<T>& taps;
  int64_t first;
  const T *x, *grad_y;
  Corners corner;
  A* dots;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V g[NV];
    load_each<W>(grad_y + channel, g);
    const auto dot = [&](const T* q) {
      V values[NV];
      load_each<W>(q, values);
      V sum = g[0] * values[0];
      for (int v = 1; v < NV; ++v) sum += g[v] * values[v];
      return sum;
    };
    const int64_t step = taps.tap_step;
    const T* base = x + channel;
    int64_t t = first;
    for (int64_t left = taps.k; left > 0; --left, t += step) {
      const Tap<T> tap = taps[t];
      const T *q = base + tap.start(), *q10 = q + corner.h;
      const int inside = tap.inside();
      if (inside == kAllCorners) [[likely]] {
        const V sums[4] = {dot(q), dot(q + corner.w), dot(q10), dot(q10 + corner.w)};
        add_sums<A, W>(dots + 4 * t, sums);
      } else if (inside) {
        const V sums[4] = {inside & kCorner00 ? dot(q) : V{}, inside & kCorner01 ? dot(q + corner.w) : V{},
                           inside & kCorner10 ? dot(q10) : V{}, inside & kCorner11 ? dot(q10 + corner.w) : V{}};
        add_sums<A, W>(dots + 4 * t, sums);
      }
    }
  }
};

// From the dot products of every tap: the gradients of its offset along y and x, and of its mask, one array each.
template <class T>
void finish_samples(const LdcnTaps<T>& taps, const typename Accumulator<T>::type* dots,
                    typename Accumulator<T>::type* gradients) {
  using A = typename Accumulator<T>::type;
  constexpr int W = LdcnTaps<T>::W;
  using V = Vector<A, W>;
  const int64_t size = taps.size;
  for (int64_t t = 0; t < size; t += W) {
    const A* from = dots + 4 * t;
    const V corners02[2] = {even_lanes<A, W>(load<W>(from), load<W>(from + W)),
                            even_lanes<A, W>(load<W>(from + 2 * W), load<W>(from + 3 * W))};
    const V corners13[2] = {odd_lanes<A, W>(load<W>(from), load<W>(from + W)),
                            odd_lanes<A, W>(load<W>(from + 2 * W), load<W>(from + 3 * W))};
    const V dot00 = even_lanes<A, W>(corners02[0], corners02[1]), dot10 = odd_lanes<A, W>(corners02[0], corners02[1]);
    const V dot01 = even_lanes<A, W>(corners13[0], corners13[1]), dot11 = odd_lanes<A, W>(corners13[0], corners13[1]);
    const TapBlock<T>& block = taps.blocks[t / W];
    const V fy = load<W>(block.fraction_y), fx = load<W>(block.fraction_x);
    const V m = taps.args.mask.data ? load<W>(taps.m + t) : V{} + A(1);
    const V top = dot00 + fx * (dot01 - dot00), bottom = dot10 + fx * (dot11 - dot10);
    Vector<typename LdcnTaps<T>::I, W> inside;
    std::memcpy(&inside, block.inside, sizeof inside);
    const auto store_inside = [&](A* to, V gradient) { store<W>(to + t, inside != 0 ? gradient : V{}); };
    store_inside(gradients, m * (bottom - top));
    store_inside(gradients + size, m * (dot01 - dot00 + fy * (dot11 - dot10 - dot01 + dot00)));
    store_inside(gradients + 2 * size, top + fy * (bottom - top));
  }
}

template <class T>
void backward_sample_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  LdcnTaps<T> taps(a);
  const int64_t depth = a.channels / a.groups, k = taps.k, size = taps.size;
  const Buffer<A> sums(size * 7);  // for each tap, 4 dot products and 3 gradients
  A* const dots = sums.data();
  A* const gradients = dots + size * 4;
  for_positions(a, taps, first, last, [&](int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count) {
    const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * depth;
    const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + oh * a.grad_y.h + ow * a.grad_y.w + g * depth;
    taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
    std::memset(dots, 0, size_t(size) * 4 * sizeof(A));
    // Not wider: summing the lanes of 64 bytes costs more than it saves (25.6 ms instead of 21.4 with 16 channels).
    constexpr int W = (kVectorBytes < 32 ? kVectorBytes : 32) / int(sizeof(A));
    for (int64_t p = 0; p < count; ++p)
      cover_with<A, W>(0, depth, Dots<T>{taps, p * taps.position_step, x, grad_y + p * a.grad_y.w, {a.x.h, a.x.w}, dots});
    finish_samples(taps, dots, gradients);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t cell = ((n * a.out_height + oh) * a.out_width + ow + p) * a.groups + g;
      A* grad_offset = a.grad_offset ? static_cast<A*>(a.grad_offset) + cell * k * 2 : nullptr;
      A* grad_mask = a.grad_mask ? static_cast<A*>(a.grad_mask) + cell * k : nullptr;
      const A* from = gradients + p * taps.position_step;
      for (int64_t tap = 0; tap < k; ++tap, from += taps.tap_step) {
        if (grad_offset) grad_offset[tap * 2] = from[0], grad_offset[tap * 2 + 1] = from[size];
        if (grad_mask) grad_mask[tap] = from[2 * size];
      }
    }
  });
}

// Adds weight * grad_y to the four corners of every tap of a position.
template <class T>
struct Scatter {
  using A = typename Accumulator<T>::type;
  const LdcnTaps<T>& taps;
  int64_t first;
  const T* grad_y;
  Corners corner;
  A* grad_x;

  template <int W, int NV>
  void run(int64_t channel) const {
    Vector<A, W> g[NV];
    for (int v = 0; v < NV; ++v) g[v] = load<W>(grad_y + channel + v * W);
    const auto add = [&](A* q, A weight) {
      for (int v = 0; v < NV; ++v) store<W>(q + v * W, load<W>(q + v * W) + weight * g[v]);
    };
    const int64_t step = taps.tap_step;
    A* base = grad_x + channel;
    int64_t t = first;
    for (int64_t left = taps.k; left > 0; --left, t += step) {
      const Tap<T> tap = taps[t];
      A *q = base + tap.start(), *q10 = q + corner.h;
      const int inside = tap.inside();
      if (inside == 15) [[likely]] {
        add(q, tap.weight(0));
        add(q + corner.w, tap.weight(1));
        add(q10, tap.weight(2));
        add(q10 + corner.w, tap.weight(3));
      } else {
        if (inside & kCorner00) add(q, tap.weight(0));
        if (inside & kCorner01) add(q + corner.w, tap.weight(1));
        if (inside & kCorner10) add(q10, tap.weight(2));
        if (inside & kCorner11) add(q10 + corner.w, tap.weight(3));
      }
    }
  }
};

// Rounds sums to T.
template <class T>
struct Convert {
  const typename Accumulator<T>::type* from;
  T* to;

  template <int W, int NV>
  void run(int64_t channel) const {
    for (int v = 0; v < NV; ++v) store<W>(to + channel + v * W, load<W>(from + channel + v * W));
  }
};

template <class T>
void backward_x_pieces(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  LdcnTaps<T> taps(a);
  const int64_t depth = a.channels / a.groups, blocks = ldcn_channel_blocks(a);
  // A piece is summed in its own plane, without the channels of other groups between its pixels: it can use all of the
  // first-level cache, and rows whose distance is near a power of two do not evict each other.
  const int64_t most = (depth + blocks - 1) / blocks, h = a.width * most + 64 / int64_t(sizeof(A)), w = most;
  const Buffer<A> sums(a.height * h);
  A* const plane = sums.data();
  for (int64_t piece = first; piece < last; ++piece) {
    const int64_t n = piece / blocks / a.groups, g = piece / blocks % a.groups, block = piece % blocks;
    const int64_t begin = depth * block / blocks, channels = depth * (block + 1) / blocks - begin;
    const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + g * depth + begin;
    std::memset(plane, 0, size_t(a.height * h) * sizeof(A));
    for (int64_t ow = 0; ow < a.out_width; ow += taps.positions)
      for (int64_t oh = 0; oh < a.out_height; ++oh) {
        const int64_t count = taps.count_from(ow);
        const T* from = grad_y + oh * a.grad_y.h + ow * a.grad_y.w;
        taps.compute(n, g, oh, ow, count, h, w);
        for (int64_t p = 0; p < count; ++p)
          cover_channels<A>(0, channels, Scatter<T>{taps, p * taps.position_step, from + p * a.grad_y.w, {h, w}, plane});
      }
    T* grad_x = static_cast<T*>(a.grad_x) + n * a.height * a.width * a.channels + g * depth + begin;
    for (int64_t row = 0; row < a.height; ++row)
      for (int64_t column = 0; column < a.width; ++column)
        cover_channels<A>(0, channels, Convert<T>{plane + row * h + column * w, grad_x + (row * a.width + column) * a.channels});
  }
}

}  // namespace

extern const LdcnKernel ldcn_kernel = {
    [](const LdcnArguments& a, int64_t first, int64_t last) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { forward_rows<T>(a, first, last); });
    },
    [](const LdcnArguments& a, int64_t first, int64_t last) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { backward_sample_rows<T>(a, first, last); });
    },
    [](const LdcnArguments& a, int64_t first, int64_t last) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { backward_x_pieces<T>(a, first, last); });
    },
};

}  // namespace dkic::DKIC_ISA
