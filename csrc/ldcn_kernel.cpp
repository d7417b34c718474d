// Lite DCN aggregation on the CPU. Compiled once per instruction set (DKIC_ISA); ldcn_cpu.cpp chooses one at run time.
//
// What costs is the arithmetic of the taps (position, floor, weights, addresses), not the sum over channels. So taps are worked
// out a vector at a time, once per (position, group), into a small buffer; then each position's channels are streamed over its
// taps.
#include "ldcn_kernel.h"

#include "cover_channels.h"
#include "ldcn_taps.h"

namespace dkic::DKIC_ISA {
namespace {

// How many rows below the kernel x is asked for ahead of its use. With the other prefetches it took the forward of
// 1x192x128x128, G=8 from 21 to 15 ms on one thread.
constexpr int64_t kPrefetchRows = 6;

template <class T>
struct Blend {
  using A = typename Accumulator<T>::type;
  const Taps<T>& taps;
  int64_t first;  // the position's first tap
  bool inside;    // all of its taps' corners are
  const T* x;
  Corners corner;
  T* y;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V sum[NV] = {};
    const int64_t* start = taps.start + first;
    const A* weight = taps.weights + first;
    const int64_t step = taps.tap_step, size = taps.size;
    const T* base = x + channel;
    if (inside) [[likely]] {
      for (int64_t tap = taps.k; tap > 0; --tap, start += step, weight += step) {
        const T *q = base + *start, *q01 = q + corner.w, *q10 = q + corner.h, *q11 = q10 + corner.w;
        const A w00 = weight[0], w01 = weight[size], w10 = weight[2 * size], w11 = weight[3 * size];
        for (int v = 0; v < NV; ++v)
          sum[v] +=
              (w00 * load<W>(q + v * W) + w01 * load<W>(q01 + v * W)) + (w10 * load<W>(q10 + v * W) + w11 * load<W>(q11 + v * W));
      }
    } else {
      for (int64_t tap = 0; tap < taps.k; ++tap)
        for (int bit = 0; bit < 4; ++bit)
          if (taps.inside[first + tap * step] >> bit & 1)
            for (int v = 0; v < NV; ++v)
              sum[v] += weight[bit * size + tap * step] * load<W>(base + (start[tap * step] + corner[bit]) + v * W);
    }
    for (int v = 0; v < NV; ++v) store<W>(y + channel + v * W, sum[v]);
  }
};

// Calls f(n, oh, ow, count) for all positions of rows [first, last), in strips of taps.positions columns from top to bottom: what
// a strip's taps reach (13 rows of 28 pixels, 280 KB at 192 channels and offsets of 5 pixels) stays in the second-level cache
// from one row to the next, which whole rows (1.3 MB) don't.
template <class T, class F>
void for_positions(const LdcnArguments& a, Taps<T>& taps, int64_t first, int64_t last, const F& f) {
  for (int64_t ow = 0; ow < a.out_width; ow += taps.positions)
    for (int64_t r = first; r < last; ++r) {
      taps.place(r % a.out_height);
      f(r / a.out_height, r % a.out_height, ow, taps.count_from(ow));
    }
}

template <class T>
void forward_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups;
  for_positions(a, taps, first, last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count) {
    const T* x = static_cast<const T*>(a.x.data) + n * a.x.n;
    T* y = static_cast<T*>(a.y) + ((n * a.out_height + oh) * a.out_width + ow) * a.channels;
    // Likewise for x, so far down that offsets of a few pixels don't reach there yet, and for y.
    const int64_t ahead = oh * a.stride_h - a.padding_h + a.dilation_h * (a.kernel_h - 1) + kPrefetchRows;
    const int64_t column = ow * a.stride_w, columns = column + count <= a.width ? count : 0;
    for (int64_t g = 0; g < a.groups; ++g, x += depth, y += depth) {
      if (ahead >= 0 && ahead < a.height)
        for (int64_t p = 0; p < columns; ++p) prefetch(x + ahead * a.x.h + (column + p) * a.x.w, depth);
      if (oh + 1 < a.out_height)
        for (int64_t p = 0; p < count; ++p) prefetch(y + (a.out_width + p) * a.channels, depth);
      taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
      for (int64_t p = 0; p < count; ++p) {
        const int64_t first_tap = p * taps.position_step;
        cover_channels<typename Taps<T>::A>(
            0, depth, Blend<T>{taps, first_tap, taps.all_inside(first_tap), x, {a.x.h, a.x.w}, y + p * a.channels});
      }
    }
  });
}

// Adds the dot products of a tap's four corners with grad_y, over the channels, to dot[4].
template <class T>
struct Dots {
  using A = typename Accumulator<T>::type;
  const T *q, *grad_y;
  Corners corner;
  int inside;
  A* dot;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V sums[4] = {};
    if (inside == 15) [[likely]] {
      const T *q00 = q + channel, *q01 = q00 + corner[1], *q10 = q00 + corner[2], *q11 = q00 + corner[3];
      for (int v = 0; v < NV; ++v) {
        const V g = load<W>(grad_y + channel + v * W);
        sums[0] += g * load<W>(q00 + v * W);
        sums[1] += g * load<W>(q01 + v * W);
        sums[2] += g * load<W>(q10 + v * W);
        sums[3] += g * load<W>(q11 + v * W);
      }
    } else {
      for (int bit = 0; bit < 4; ++bit)
        if (inside >> bit & 1)
          for (int v = 0; v < NV; ++v)
            sums[bit] += load<W>(grad_y + channel + v * W) * load<W>(q + corner[bit] + channel + v * W);
    }
    add_sums<A, W>(dot, sums);
  }
};

template <class T>
void backward_sample_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, k = taps.k;
  for_positions(a, taps, first, last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count) {
    for (int64_t g = 0; g < a.groups; ++g) {
      const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * depth;
      taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
      for (int64_t p = 0; p < count; ++p) {
        const int64_t cell = (((n * a.out_height + oh) * a.out_width) + ow + p) * a.groups + g;
        const T* grad_y =
            static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + oh * a.grad_y.h + (ow + p) * a.grad_y.w + g * depth;
        A* grad_offset = a.grad_offset ? static_cast<A*>(a.grad_offset) + cell * k * 2 : nullptr;
        A* grad_mask = a.grad_mask ? static_cast<A*>(a.grad_mask) + cell * k : nullptr;
        for (int64_t tap = 0; tap < k; ++tap) {
          const int64_t t = p * taps.position_step + tap * taps.tap_step;
          A dot[4] = {};
          if (taps.inside[t])
            cover_channels<A>(0, depth, Dots<T>{x + taps.start[t], grad_y, {a.x.h, a.x.w}, int(taps.inside[t]), dot});
          const A fy = taps.fraction_y[t], fx = taps.fraction_x[t], m = taps.mask_at(t);
          const A top = dot[0] + fx * (dot[1] - dot[0]), bottom = dot[2] + fx * (dot[3] - dot[2]);
          const bool outside = !taps.inside[t];
          if (grad_offset) {
            grad_offset[tap * 2] = outside ? A(0) : m * (bottom - top);
            grad_offset[tap * 2 + 1] = outside ? A(0) : m * (dot[1] - dot[0] + fy * (dot[3] - dot[2] - dot[1] + dot[0]));
          }
          if (grad_mask) grad_mask[tap] = outside ? A(0) : top + fy * (bottom - top);
        }
      }
    }
  });
}

// Adds weight * grad_y to the four corners of every tap of a position.
template <class T>
struct Scatter {
  using A = typename Accumulator<T>::type;
  const Taps<T>& taps;
  int64_t first;
  bool inside;
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
    const int64_t* start = taps.start + first;
    const A* weight = taps.weights + first;
    const int64_t step = taps.tap_step, size = taps.size;
    A* base = grad_x + channel;
    if (inside) [[likely]] {
      for (int64_t tap = taps.k; tap > 0; --tap, start += step, weight += step) {
        A *q = base + *start, *q10 = q + corner.h;
        add(q, weight[0]);
        add(q + corner.w, weight[size]);
        add(q10, weight[2 * size]);
        add(q10 + corner.w, weight[3 * size]);
      }
    } else {
      for (int64_t tap = 0; tap < taps.k; ++tap)
        for (int bit = 0; bit < 4; ++bit)
          if (taps.inside[first + tap * step] >> bit & 1)
            add(base + start[tap * step] + corner[bit], weight[bit * size + tap * step]);
    }
  }
};

template <class T>
void backward_x_pieces(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, blocks = ldcn_channel_blocks(a);
  const int64_t h = a.width * a.channels, w = a.channels;  // of grad_x
  for (int64_t piece = first; piece < last; ++piece) {
    const int64_t n = piece / blocks / a.groups, g = piece / blocks % a.groups, block = piece % blocks;
    const int64_t begin = depth * block / blocks, end = depth * (block + 1) / blocks;
    A* grad_x = static_cast<A*>(a.grad_x) + n * a.height * h + g * depth;
    const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + g * depth;
    for (int64_t oh = 0; oh < a.out_height; ++oh) {
      taps.place(oh);
      for (int64_t ow = 0; ow < a.out_width; ow += taps.positions) {
        const int64_t count = taps.count_from(ow);
        taps.compute(n, g, oh, ow, count, h, w);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t first_tap = p * taps.position_step;
          cover_channels<A>(
              begin, end,
              Scatter<T>{
                  taps, first_tap, taps.all_inside(first_tap), grad_y + oh * a.grad_y.h + (ow + p) * a.grad_y.w, {h, w}, grad_x});
        }
      }
    }
  }
}

template <template <class> class F>
void dispatch(const LdcnArguments& a, int64_t first, int64_t last) {
  switch (a.x.type) {
    case Scalar::f32:
      return F<float>::run(a, first, last);
    case Scalar::f64:
      return F<double>::run(a, first, last);
    case Scalar::f16:
      return F<half>::run(a, first, last);
    case Scalar::bf16:
      return F<bfloat16>::run(a, first, last);
  }
}
template <class T>
struct Forward {
  static void run(const LdcnArguments& a, int64_t first, int64_t last) { forward_rows<T>(a, first, last); }
};
template <class T>
struct BackwardSamples {
  static void run(const LdcnArguments& a, int64_t first, int64_t last) { backward_sample_rows<T>(a, first, last); }
};
template <class T>
struct BackwardX {
  static void run(const LdcnArguments& a, int64_t first, int64_t last) { backward_x_pieces<T>(a, first, last); }
};

}  // namespace

extern const LdcnKernel ldcn_kernel = {dispatch<Forward>, dispatch<BackwardSamples>, dispatch<BackwardX>};

}  // namespace dkic::DKIC_ISA
