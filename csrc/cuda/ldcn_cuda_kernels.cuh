// Bodies of ldcn's general CUDA kernels, in NHWC. The tests run them on the CPU (host_device.h).
//
// A block computes its taps (position, floor, weights, corners inside) once, one tap per thread, into shared memory. Then the
// lanes of a position iterate over the taps, each for its channels. Large kernels need several chunks of taps, and groups with
// many channels several rounds of channels.
#pragma once
#include <cmath>

#include "common/corners.h"
#include "cuda/ldcn_cuda_numbers.cuh"
#include "cuda/ldcn_cuda_plan.h"

namespace dkic::gpu {

// One axis of a position, as sample_axis in csrc/cpu/bilinear.h.
template <class A>
struct Axis {
  int low;
  A fraction;
  bool low_inside, high_inside;
};

template <class A>
DKIC_DEVICE Axis<A> sample_axis(A position, int size) {
  A p = position > A(-2) ? position : A(-2);
  p = p < A(size) + A(1) ? p : A(size) + A(1);
  p = position == position ? p : A(0);
  const A low = std::floor(p);
  const int at = int(low);
  return {at, position - low, unsigned(at) < unsigned(size), unsigned(at + 1) < unsigned(size) && p > A(-1)};
}

// Work item of a block: a tile of positions of one group in one image.
struct Tile {
  int n, g, oh, ow;  // of the first position
};

DKIC_DEVICE Tile tile_at(const LdcnArguments& a, const LdcnPlan& plan, int64_t index) {
  Tile tile;
  tile.g = int(index % a.groups), index /= a.groups;
  tile.ow = int(index % plan.tile_columns) * plan.tile_width, index /= plan.tile_columns;
  tile.oh = int(index % plan.tile_rows) * plan.tile_height;
  tile.n = int(index / plan.tile_rows);
  return tile;
}

// Position p of a tile; it does not exist if it is outside the result.
struct Position {
  int oh, ow;
  bool exists;
};

DKIC_DEVICE Position position_in(const LdcnArguments& a, const LdcnPlan& plan, const Tile& tile, int p) {
  const int oh = tile.oh + p / plan.tile_width, ow = tile.ow + p % plan.tile_width;
  return {oh, ow, oh < a.out_height && ow < a.out_width};
}

// Element indexes have 64 bits, all other indexes 32.
DKIC_DEVICE int64_t pixel_of(const LdcnArguments& a, const Tile& tile, const Position& at) {
  return (tile.n * a.out_height + at.oh) * a.out_width + at.ow;
}

// The corners of a tap in one word: the set of the corners inside the image in the low kCorners bits, and above them the offset
// of corner (0, 0), in elements. A word of 0: no corner is inside.
struct TapCorners {
  int64_t word;

  static DKIC_DEVICE TapCorners of(int64_t start, int inside) { return {start * (1 << kCorners) + inside}; }
  DKIC_DEVICE int64_t start() const { return word >> kCorners; }
  DKIC_DEVICE bool inside(int corner) const { return word >> corner & 1; }
  DKIC_DEVICE bool any() const { return word != 0; }
};

// Taps in shared memory: entry p * chunk + t is tap t of position p. A tap with no corner inside is all zeros.
template <class A>
struct SharedTaps {
  TapNumbers<A>* numbers;
  TapCorners* corners;
};

template <class A, class Thread>
DKIC_DEVICE SharedTaps<A> shared_taps(const Thread& thread, const LdcnPlan& plan) {
  auto* numbers = thread.template shared<TapNumbers<A>>();
  return {numbers, reinterpret_cast<TapCorners*>(numbers + kLdcnThreads / plan.lanes * plan.chunk)};
}

// TapNumbers of a kernel: either the weights of the corners times the mask, 0 for a corner outside ...
struct Weights {
  template <class A>
  static DKIC_DEVICE TapNumbers<A> numbers(const Axis<A>& y, const Axis<A>& x, A mask, int inside) {
    const A my = mask * y.fraction, mx = mask - my, v11 = my * x.fraction, v01 = mx * x.fraction;
    return {{inside & kCorner00 ? mx - v01 : A(0), inside & kCorner01 ? v01 : A(0), inside & kCorner10 ? my - v11 : A(0),
             inside & kCorner11 ? v11 : A(0)}};
  }
};
// ... or the fractions and the mask.
struct Fractions {
  template <class A>
  static DKIC_DEVICE TapNumbers<A> numbers(const Axis<A>& y, const Axis<A>& x, A mask, int) {
    return {{y.fraction, x.fraction, mask, A(0)}};
  }
};

// A tap: its corners, and its numbers of a Kind (Weights or Fractions).
template <class A>
struct Tap {
  TapCorners corners;
  TapNumbers<A> numbers;
};

// Computes tap `tap` of position `at` in group g of image n; h and w: row and column strides of the sampled image.
template <class Kind, class A, class Thread>
DKIC_DEVICE Tap<A> compute_tap(const Thread& thread, const LdcnArguments& a, bool offset_pairs, int n, int g, const Position& at,
                               int tap, int64_t h, int64_t w) {
  const int row = tap / int(a.kernel_w), column = tap % int(a.kernel_w);
  const int channel = g * int(a.kernel_h * a.kernel_w) + tap;
  const int64_t from = n * a.offset.n + channel * (2 * a.offset.c) + at.oh * a.offset.h + at.ow * a.offset.w;
  Pack<A, 2> d;
  if (offset_pairs) {
    d = read<2, A>(thread, a.offset, from);
  } else {
    for (int axis = 0; axis < 2; ++axis) d.v[axis] = read<1, A>(thread, a.offset, from + axis * a.offset.c).v[0];
  }
  A mask = 1;
  if (a.mask.data) {
    mask = read<1, A>(thread, a.mask, n * a.mask.n + channel * a.mask.c + at.oh * a.mask.h + at.ow * a.mask.w).v[0];
  }
  const auto y = sample_axis(A(at.oh * a.stride_h - a.padding_h + row * a.dilation_h) + d.v[0], int(a.height));
  const auto x = sample_axis(A(at.ow * a.stride_w - a.padding_w + column * a.dilation_w) + d.v[1], int(a.width));
  const int inside = (y.low_inside && x.low_inside ? kCorner00 : 0) | (y.low_inside && x.high_inside ? kCorner01 : 0) |
                     (y.high_inside && x.low_inside ? kCorner10 : 0) | (y.high_inside && x.high_inside ? kCorner11 : 0);
  Tap<A> result{};
  if (inside) result = {TapCorners::of(y.low * h + x.low * w, inside), Kind::numbers(y, x, mask, inside)};
  return result;
}

// Computes taps [first, first + count) of all positions of a tile.
template <class Kind, class A, class Thread>
DKIC_DEVICE void compute_taps(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan, const Tile& tile, int first,
                              int count, int64_t h, int64_t w, const SharedTaps<A>& taps) {
  const int positions = kLdcnThreads / plan.lanes;
  for (int i = thread.index(); i < positions * count; i += kLdcnThreads) {
    // Adjacent threads read adjacent offsets.
    const bool taps_adjacent = a.offset.c == 1;
    const int p = taps_adjacent ? i / count : i % positions, t = taps_adjacent ? i % count : i / positions;
    const Position at = position_in(a, plan, tile, p);
    Tap<A> tap{};
    if (at.exists) tap = compute_tap<Kind, A>(thread, a, plan.offset_pairs, tile.n, tile.g, at, first + t, h, w);
    taps.corners[p * plan.chunk + t] = tap.corners;
    taps.numbers[p * plan.chunk + t] = tap.numbers;
  }
}

// Loops of the general kernels, over the tiles of a block and over chunks of the taps of a tile.
template <class A, class Thread>
struct TapLoops {
  const Thread& thread;
  const LdcnArguments& a;
  const LdcnPlan& plan;
  SharedTaps<A> taps;
  int own, lane;    // the thread's position in a tile, and its lane in the position
  int depth, k;     // channels per group; taps
  int first_entry;  // first tap of the position in `taps`

  DKIC_DEVICE TapLoops(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan)
      : thread(thread),
        a(a),
        plan(plan),
        taps(shared_taps<A>(thread, plan)),
        own(thread.index() / plan.lanes),
        lane(thread.index() % plan.lanes),
        depth(int(a.channels / a.groups)),
        k(int(a.kernel_h * a.kernel_w)),
        first_entry(own * plan.chunk) {}

  // Calls f(tile, at) for each tile of the block; at: the position of the thread.
  template <class F>
  DKIC_DEVICE void for_each_tile(const F& f) const {
    for (int64_t index = thread.block(); index < plan.tiles; index += thread.blocks()) {
      const Tile tile = tile_at(a, plan, index);
      f(tile, position_in(a, plan, tile, own));
    }
  }

  // Calls f(first, count) for each chunk, with taps [first, first + count) of all positions of a tile in shared memory. Contains
  // barriers: all threads of a block must call it. again: the previous call was for the same tile.
  template <class Kind, class F>
  DKIC_DEVICE void for_each_chunk(const Tile& tile, int64_t h, int64_t w, bool again, const F& f) const {
    for (int first = 0; first < k; first += plan.chunk) {
      const int count = k - first < plan.chunk ? k - first : plan.chunk;
      if (!again || plan.chunk < k) {  // otherwise the taps are still in shared memory
        thread.barrier();
        compute_taps<Kind>(thread, a, plan, tile, first, count, h, w, taps);
        thread.barrier();
      }
      f(first, count);
    }
  }
};

// V channels of a corner; zeros for a corner outside.
template <int V, class T, class Thread>
DKIC_DEVICE Pack<T, V> load_corner(const Thread& thread, bool inside, const T* from) {
  Pack<T, V> values{};
  if (inside) values = thread.template load<V>(from);
  return values;
}

template <int V, class T, class Thread>
DKIC_DEVICE void load_corners(const Thread& thread, TapCorners of, const T* x, int64_t h, int64_t w, Pack<T, V> (&corners)[4]) {
  const T* q = x + of.start();
  corners[0] = load_corner<V>(thread, of.inside(0), q);
  corners[1] = load_corner<V>(thread, of.inside(1), q + w);
  corners[2] = load_corner<V>(thread, of.inside(2), q + h);
  corners[3] = load_corner<V>(thread, of.inside(3), q + h + w);
}

// Adds the samples of `Taps` taps to the sums; loads all corners before the first is used.
template <int Taps, int V, class T, class A, class Thread>
DKIC_DEVICE void add_taps(const Thread& thread, const SharedTaps<A>& taps, int entry, const T* x, int64_t h, int64_t w,
                          A (&sums)[V]) {
  Pack<T, V> corners[Taps][4];
  for (int t = 0; t < Taps; ++t) load_corners<V>(thread, taps.corners[entry + t], x, h, w, corners[t]);
  for (int t = 0; t < Taps; ++t) {
    const TapNumbers<A> weights = taps.numbers[entry + t];
    for (int corner = 0; corner < 4; ++corner) {
      const Pack<A, V> values = converted<A>(corners[t][corner]);
      for (int v = 0; v < V; ++v) sums[v] += weights.v[corner] * values.v[v];
    }
  }
}

template <class T, int V, class Thread>
DKIC_DEVICE void ldcn_forward(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan) {
  using A = typename SumOf<T>::type;
  const TapLoops<A, Thread> loops(thread, a, plan);
  const int depth = loops.depth;
  loops.for_each_tile([&](const Tile& tile, const Position& at) {
    // All threads run the same number of rounds, because rounds contain barriers.
    for (int round = 0; round < depth; round += plan.lanes * V) {
      const int channel = round + loops.lane * V;
      const bool busy = at.exists && channel < depth;
      const T* x = static_cast<const T*>(a.x.data) + tile.n * a.x.n + tile.g * depth + channel;
      A sums[V] = {};
      loops.template for_each_chunk<Weights>(tile, a.x.h, a.x.w, round > 0, [&](int, int count) {
        if (!busy) return;
        const int end = loops.first_entry + count;
        int entry = loops.first_entry;
        // As many loads in flight as 64 registers allow: 8, or 4 if the sums take more than 4 registers.
        constexpr int kAtOnce = V <= 4 && sizeof(A) == 4 ? 2 : 1;
        DKIC_UNROLL(1)  // unrolled, double spills, and a tap takes as many instructions
        for (; entry + kAtOnce <= end; entry += kAtOnce) add_taps<kAtOnce, V>(thread, loops.taps, entry, x, a.x.h, a.x.w, sums);
        if constexpr (kAtOnce > 1)
          if (entry < end) add_taps<1, V>(thread, loops.taps, entry, x, a.x.h, a.x.w, sums);
      });
      if (!busy) continue;
      Pack<T, V> y;
      for (int v = 0; v < V; ++v) y.v[v] = T(sums[v]);
      thread.template store<V>(static_cast<T*>(a.y) + pixel_of(a, tile, at) * a.channels + tile.g * depth + channel, y);
    }
  });
}

template <class A>
struct TapGradients {
  A along_y, along_x, of_mask;
};

// dots: dot products over channels of grad_y and each corner.
template <class A>
DKIC_DEVICE TapGradients<A> gradients_from(const TapNumbers<A>& fractions, const A (&dots)[4]) {
  const A fy = fractions.v[0], fx = fractions.v[1], mask = fractions.v[2];
  const A right = dots[1] - dots[0], top = dots[0] + fx * right;
  const A bottom = dots[2] + fx * (dots[3] - dots[2]);
  return {mask * (bottom - top), mask * (right + fy * (dots[3] - dots[2] - right)), top + fy * (bottom - top)};
}

// The first channel of the tile's group in grad_y, at a position.
template <class T>
DKIC_DEVICE const T* gradient_at(const LdcnArguments& a, const Tile& tile, const Position& at) {
  const int64_t pixel = tile.n * a.grad_y.n + at.oh * a.grad_y.h + at.ow * a.grad_y.w;
  return static_cast<const T*>(a.grad_y.data) + pixel + tile.g * int(a.channels / a.groups);
}

// Gradients of offset and mask. Sums over channels have a fixed order.
template <class T, int V, class Thread>
DKIC_DEVICE void ldcn_backward_samples(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan) {
  using A = typename SumOf<T>::type;
  const TapLoops<A, Thread> loops(thread, a, plan);
  const SharedTaps<A>& taps = loops.taps;
  const int positions = kLdcnThreads / plan.lanes, depth = loops.depth, span = plan.lanes * V;
  loops.for_each_tile([&](const Tile& tile, const Position& at) {
    const T* x = static_cast<const T*>(a.x.data) + tile.n * a.x.n + tile.g * depth;
    const T* grad_y = gradient_at<T>(a, tile, at);
    const int end = at.exists ? depth : 0, begin = loops.lane * V;
    Pack<T, V> g{};
    if (begin < end) g = thread.template load<V>(grad_y + begin);
    loops.template for_each_chunk<Fractions>(tile, a.x.h, a.x.w, false, [&](int first, int count) {
      for (int t = 0; t < count; ++t) {  // the same number of iterations in all lanes, because of the shuffles
        const int entry = loops.first_entry + t;
        const TapCorners of = taps.corners[entry];
        A along_y = 0, along_x = 0, of_mask = 0;
        if (of.any()) {
          A dots[4] = {};
          for (int channel = begin; channel < end; channel += span) {
            Pack<T, V> corners[4];
            load_corners<V>(thread, of, x + channel, a.x.h, a.x.w, corners);
            if (span < depth) g = thread.template load<V>(grad_y + channel);
            const Pack<A, V> gradients = converted<A>(g);
            for (int corner = 0; corner < 4; ++corner) {
              const Pack<A, V> values = converted<A>(corners[corner]);
              for (int v = 0; v < V; ++v) dots[corner] += gradients.v[v] * values.v[v];
            }
          }
          const TapGradients<A> of = gradients_from(taps.numbers[entry], dots);
          along_y = of.along_y, along_x = of.along_x, of_mask = of.of_mask;
        }
        for (int distance = plan.lanes / 2; distance; distance /= 2) {
          along_y += thread.shuffle_xor(kAllLanes, along_y, distance);
          along_x += thread.shuffle_xor(kAllLanes, along_x, distance);
          of_mask += thread.shuffle_xor(kAllLanes, of_mask, distance);
        }
        // All lanes of the position are in one warp and have read the tap's numbers before the shuffles.
        if (loops.lane == 0) taps.numbers[entry] = {{along_y, along_x, of_mask, A(0)}};
      }
      thread.barrier();
      for (int i = thread.index(); i < positions * count; i += kLdcnThreads) {
        const int p = i / count, t = i % count;
        const Position to = position_in(a, plan, tile, p);
        if (!to.exists) continue;
        const TapNumbers<A> gradients = taps.numbers[p * plan.chunk + t];
        const int64_t tap = (pixel_of(a, tile, to) * a.groups + tile.g) * loops.k + first + t;
        const Pack<A, 2> along{{gradients.v[0], gradients.v[1]}};
        if (a.grad_offset) write(thread, a.grad_offset, a.offset.type, tap * 2, along);
        if (a.grad_mask) write(thread, a.grad_mask, a.mask.type, tap, Pack<A, 1>{{gradients.v[2]}});
      }
    });
  });
}

// Adds weight * g to the corners of a tap that are inside; image: index of the channel at pixel (0, 0).
template <class Sum, class A, class Thread>
DKIC_DEVICE void add_to_corners(const Thread& thread, const Sum& sum, const Tap<A>& tap, int64_t image, int64_t h, int64_t w,
                                A g) {
  const int64_t q = image + tap.corners.start();
  if (tap.corners.inside(0)) sum.add(thread, q, tap.numbers.v[0] * g);
  if (tap.corners.inside(1)) sum.add(thread, q + w, tap.numbers.v[1] * g);
  if (tap.corners.inside(2)) sum.add(thread, q + h, tap.numbers.v[2] * g);
  if (tap.corners.inside(3)) sum.add(thread, q + h + w, tap.numbers.v[3] * g);
}

// Gradient of x: every tap adds weight * grad_y to its corners with `sum`. One channel per lane, so that atomics are coalesced.
template <class T, class Sum, class Thread>
DKIC_DEVICE void ldcn_scatter(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan, const Sum& sum) {
  using A = typename SumOf<T>::type;
  const TapLoops<A, Thread> loops(thread, a, plan);
  const int64_t h = a.width * a.channels, w = a.channels;
  loops.for_each_tile([&](const Tile& tile, const Position& at) {
    const T* grad_y = gradient_at<T>(a, tile, at);
    const int end = at.exists ? loops.depth : 0;
    const int64_t image = tile.n * a.height * h + tile.g * loops.depth;
    loops.template for_each_chunk<Weights>(tile, h, w, false, [&](int, int count) {
      for (int channel = loops.lane; channel < end; channel += plan.lanes) {
        const A g = A(thread.template load<1>(grad_y + channel).v[0]);
        for (int entry = loops.first_entry; entry < loops.first_entry + count; ++entry) {
          const TapCorners of = loops.taps.corners[entry];
          if (of.any()) add_to_corners(thread, sum, {of, loops.taps.numbers[entry]}, image + channel, h, w, g);
        }
      }
    });
  });
}

template <class A>
struct AtomicSum {
  A* sums;
  template <class Thread>
  DKIC_DEVICE void add(const Thread& thread, int64_t at, A value) const {
    thread.atomic_add(sums + at, value);
  }
};

// Accumulates into sums: contiguous NHWC, initialized to 0, float (double for double).
template <class T, class Thread>
DKIC_DEVICE void ldcn_backward_x(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan,
                                 typename SumOf<T>::type* sums) {
  ldcn_scatter<T>(thread, a, plan, AtomicSum<typename SumOf<T>::type>{sums});
}

// Rounds `count` sums to T. Both arrays are aligned to 16 bytes.
template <class T, class Thread>
DKIC_DEVICE void ldcn_round(const Thread& thread, const float* sums, int64_t count, T* to) {
  const int64_t first = thread.block() * kLdcnThreads + thread.index(), quads = count / 4;
  for (int64_t i = first; i < quads; i += thread.blocks() * kLdcnThreads)
    thread.template store<4>(to + i * 4, converted<T>(thread.template load<4>(sums + i * 4)));
  if (const int64_t i = quads * 4 + first; i < count)
    thread.template store<1>(to + i, converted<T>(thread.template load<1>(sums + i)));
}

}  // namespace dkic::gpu
