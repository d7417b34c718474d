// Lite DCN aggregation on the CPU. Compiled once per instruction set (DKIC_ISA); ldcn_cpu.cpp chooses one at run time.
//
// What costs is the arithmetic of the taps (position, floor, weights, addresses), not the sum over channels. So taps are worked out
// a vector at a time, once per (position, group), into a small buffer; then each position's channels are streamed over its taps.
#include "ldcn_kernel.h"

#include "bilinear.h"

namespace dkic::DKIC_ISA {
namespace {

template <class T>
struct Accumulator {
  using type = float;
  using index = int32_t;
};
template <>
struct Accumulator<double> {
  using type = double;
  using index = int64_t;
};

constexpr int64_t kTile = 144;  // taps worked out at once where K allows: 16 positions of a 3x3 kernel, 7 KB of buffer

// The taps of some positions of one output row in one group, entry [position * K + tap].
template <class T>
struct Taps {
  using A = typename Accumulator<T>::type;
  using I = typename Accumulator<T>::index;
  static constexpr int W = kVectorBytes / int(sizeof(A));

  explicit Taps(const LdcnArguments& a)
      : args(a), k(a.kernel_h * a.kernel_w), positions(k < kTile ? kTile / k : 1) {
    const int64_t size = (positions * k + W - 1) / W * W;
    memory = new A[size * 9]();  // zeroed: lanes past the last tap are computed too
    A* p = memory;
    A** const arrays[] = {&row, &column, &dy, &dx, &m, &w00, &w01, &w10, &w11};
    for (A** array : arrays) *array = p, p += size;
    low_y = new I[size * 2]();
    low_x = low_y + size;
    inside = new uint8_t[size]();
  }
  ~Taps() {
    delete[] memory;
    delete[] low_y;
    delete[] inside;
  }
  Taps(const Taps&) = delete;
  Taps& operator=(const Taps&) = delete;

  // Undisplaced sampling positions of output row `oh`, columns [ow, ow + count).
  void place(int64_t oh, int64_t ow, int64_t count) {
    for (int64_t p = 0, t = 0; p < count; ++p)
      for (int64_t i = 0; i < args.kernel_h; ++i)
        for (int64_t j = 0; j < args.kernel_w; ++j, ++t) {
          row[t] = A(oh * args.stride_h - args.padding_h + i * args.dilation_h);
          column[t] = A((ow + p) * args.stride_w - args.padding_w + j * args.dilation_w);
        }
  }

  // Reads offset and mask of image n, group g, and works out every tap placed before.
  void compute(int64_t n, int64_t g, int64_t oh, int64_t ow, int64_t count) {
    gather(dy, args.offset, n, g * k * 2, 2, oh, ow, count);
    gather(dx, args.offset, n, g * k * 2 + 1, 2, oh, ow, count);
    if (args.mask.data)
      gather(m, args.mask, n, g * k, 1, oh, ow, count);
    else
      for (int64_t t = 0; t < count * k; ++t) m[t] = A(1);
    for (int64_t t = 0; t < count * k; t += W) {
      const auto y = sample_axis<A, I, W>(load<W>(row + t) + load<W>(dy + t), A(args.height));
      const auto x = sample_axis<A, I, W>(load<W>(column + t) + load<W>(dx + t), A(args.width));
      const Vector<A, W> mask = load<W>(m + t);
      store<W>(dy + t, y.fraction);
      store<W>(dx + t, x.fraction);
      const auto my = mask * y.fraction, mx = mask - my;
      const auto v11 = my * x.fraction, v01 = mx * x.fraction;
      store<W>(w00 + t, mx - v01);
      store<W>(w01 + t, v01);
      store<W>(w10 + t, my - v11);
      store<W>(w11 + t, v11);
      std::memcpy(low_y + t, &y.low, sizeof y.low);
      std::memcpy(low_x + t, &x.low, sizeof x.low);
      const auto corners = (y.low_inside & x.low_inside & I(1)) | (y.low_inside & x.high_inside & I(2)) |
                           (y.high_inside & x.low_inside & I(4)) | (y.high_inside & x.high_inside & I(8));
      const auto bytes = __builtin_convertvector(corners, Vector<uint8_t, W>);
      std::memcpy(inside + t, &bytes, sizeof bytes);
    }
  }

  const LdcnArguments& args;
  const int64_t k, positions;
  A *row, *column, *m, *w00, *w01, *w10, *w11;  // weights carry the mask
  A *dy, *dx;                                   // offsets; fractions after compute()
  I *low_y, *low_x;
  uint8_t* inside;  // bits 1 2 4 8: corners (0,0) (0,1) (1,0) (1,1) lie inside

 private:
  template <class S>
  void gather_as(A* out, const Strided& from, int64_t start, int64_t channel_step, int64_t count) {
    const S* base = static_cast<const S*>(from.data) + start;
    for (int64_t p = 0; p < count; ++p)
      for (int64_t tap = 0; tap < k; ++tap) out[p * k + tap] = load<1>(base + p * from.w + tap * channel_step)[0];
  }
  void gather_as_double(A* out, const Strided& from, int64_t start, int64_t channel_step, int64_t count) {
    const double* base = static_cast<const double*>(from.data) + start;
    for (int64_t p = 0; p < count; ++p)
      for (int64_t tap = 0; tap < k; ++tap) out[p * k + tap] = A(base[p * from.w + tap * channel_step]);
  }
  void gather(A* out, const Strided& from, int64_t n, int64_t channel, int64_t step, int64_t oh, int64_t ow, int64_t count) {
    const int64_t start = n * from.n + channel * from.c + oh * from.h + ow * from.w;
    switch (from.type) {
      case Scalar::f32: return gather_as<float>(out, from, start, step * from.c, count);
      case Scalar::f64: return gather_as_double(out, from, start, step * from.c, count);
      case Scalar::f16: return gather_as<half>(out, from, start, step * from.c, count);
      case Scalar::bf16: return gather_as<bfloat16>(out, from, start, step * from.c, count);
    }
  }

  A* memory;
};

// Calls block.template run<W, NV>(channel) so that [0, depth) is covered: as many as 4 full vectors at once, narrower ones for the rest.
template <class A, int W = kVectorBytes / int(sizeof(A)), class Block>
inline void cover_channels(int64_t channel, int64_t depth, const Block& block) {
  if constexpr (W == kVectorBytes / int(sizeof(A))) {
    for (; channel + 4 * W <= depth; channel += 4 * W) block.template run<W, 4>(channel);
    if (channel + 3 * W <= depth) block.template run<W, 3>(channel), channel += 3 * W;
    if (channel + 2 * W <= depth) block.template run<W, 2>(channel), channel += 2 * W;
  }
  if (channel + W <= depth) block.template run<W, 1>(channel), channel += W;
  if constexpr (W > 1)
    if (channel < depth) cover_channels<A, W / 2>(channel, depth, block);
}

// The image of one sample and group: corner (y, x) of it starts at base + y * h + x * w.
template <class T>
struct Corners {
  int64_t h, w;
  int64_t at(const Taps<T>& taps, int64_t t) const { return int64_t(taps.low_y[t]) * h + int64_t(taps.low_x[t]) * w; }
  int64_t corner(int bit) const { return (bit & 2 ? h : 0) + (bit & 1 ? w : 0); }
};

template <class T>
struct Blend {
  using A = typename Accumulator<T>::type;
  const Taps<T>& taps;
  int64_t first;  // the position's first tap
  const T* x;
  Corners<T> corners;
  T* y;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V sum[NV] = {};
    for (int64_t t = first; t < first + taps.k; ++t) {
      const T* q = x + corners.at(taps, t) + channel;
      const A weight[4] = {taps.w00[t], taps.w01[t], taps.w10[t], taps.w11[t]};
      if (taps.inside[t] == 15) {
        const T *q01 = q + corners.w, *q10 = q + corners.h, *q11 = q10 + corners.w;
        for (int v = 0; v < NV; ++v)
          sum[v] += (weight[0] * load<W>(q + v * W) + weight[1] * load<W>(q01 + v * W)) +
                    (weight[2] * load<W>(q10 + v * W) + weight[3] * load<W>(q11 + v * W));
      } else {
        for (int bit = 0; bit < 4; ++bit)
          if (taps.inside[t] >> bit & 1)
            for (int v = 0; v < NV; ++v) sum[v] += weight[bit] * load<W>(q + corners.corner(bit) + v * W);
      }
    }
    for (int v = 0; v < NV; ++v) store<W>(y + channel + v * W, sum[v]);
  }
};

template <class T>
void forward_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups;
  const T* x = static_cast<const T*>(a.x.data);
  for (int64_t r = first; r < last; ++r) {
    const int64_t n = r / a.out_height, oh = r % a.out_height;
    T* y = static_cast<T*>(a.y) + r * a.out_width * a.channels;
    for (int64_t ow = 0; ow < a.out_width; ow += taps.positions) {
      const int64_t count = a.out_width - ow < taps.positions ? a.out_width - ow : taps.positions;
      taps.place(oh, ow, count);
      for (int64_t g = 0; g < a.groups; ++g) {
        taps.compute(n, g, oh, ow, count);
        for (int64_t p = 0; p < count; ++p)
          cover_channels<typename Taps<T>::A>(
              0, depth, Blend<T>{taps, p * taps.k, x + n * a.x.n + g * depth, {a.x.h, a.x.w}, y + (ow + p) * a.channels + g * depth});
      }
    }
  }
}

// Dot products of a tap's four corners with grad_y, over the channels.
template <class T>
struct Dots {
  using A = typename Accumulator<T>::type;
  const T *q, *grad_y;
  Corners<T> corners;
  uint8_t inside;
  A* dot;  // [4]

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V sums[4] = {};
    for (int v = 0; v < NV; ++v) {
      const V g = load<W>(grad_y + channel + v * W);
      for (int bit = 0; bit < 4; ++bit)
        if (inside >> bit & 1) sums[bit] += g * load<W>(q + corners.corner(bit) + channel + v * W);
    }
    for (int bit = 0; bit < 4; ++bit) dot[bit] += sum<A, W>(sums[bit]);
  }
};

template <class T>
void backward_sample_rows(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, k = taps.k;
  for (int64_t r = first; r < last; ++r) {
    const int64_t n = r / a.out_height, oh = r % a.out_height;
    for (int64_t ow = 0; ow < a.out_width; ow += taps.positions) {
      const int64_t count = a.out_width - ow < taps.positions ? a.out_width - ow : taps.positions;
      taps.place(oh, ow, count);
      for (int64_t g = 0; g < a.groups; ++g) {
        taps.compute(n, g, oh, ow, count);
        const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * depth;
        for (int64_t p = 0; p < count; ++p) {
          const int64_t cell = (r * a.out_width + ow + p) * a.groups + g;
          const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + oh * a.grad_y.h + (ow + p) * a.grad_y.w + g * depth;
          A* grad_offset = a.grad_offset ? static_cast<A*>(a.grad_offset) + cell * k * 2 : nullptr;
          A* grad_mask = a.grad_mask ? static_cast<A*>(a.grad_mask) + cell * k : nullptr;
          for (int64_t tap = 0; tap < k; ++tap) {
            const int64_t t = p * k + tap;
            const Corners<T> corners{a.x.h, a.x.w};
            A dot[4] = {};
            if (taps.inside[t] == 15)
              cover_channels<A>(0, depth, Dots<T>{x + corners.at(taps, t), grad_y, corners, 15, dot});
            else if (taps.inside[t])
              cover_channels<A>(0, depth, Dots<T>{x + corners.at(taps, t), grad_y, corners, taps.inside[t], dot});
            const A fy = taps.dy[t], fx = taps.dx[t], m = taps.m[t];
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
    }
  }
}

// Adds weight * grad_y to the four corners of every tap of a position.
template <class T>
struct Scatter {
  using A = typename Accumulator<T>::type;
  const Taps<T>& taps;
  int64_t first;
  const T* grad_y;
  Corners<T> corners;
  A* grad_x;

  template <int W, int NV>
  void run(int64_t channel) const {
    Vector<A, W> g[NV];
    for (int v = 0; v < NV; ++v) g[v] = load<W>(grad_y + channel + v * W);
    for (int64_t t = first; t < first + taps.k; ++t) {
      A* q = grad_x + corners.at(taps, t) + channel;
      const A weight[4] = {taps.w00[t], taps.w01[t], taps.w10[t], taps.w11[t]};
      for (int bit = 0; bit < 4; ++bit)
        if (taps.inside[t] >> bit & 1) {
          A* corner = q + corners.corner(bit);
          for (int v = 0; v < NV; ++v) store<W>(corner + v * W, load<W>(corner + v * W) + weight[bit] * g[v]);
        }
    }
  }
};

template <class T>
void backward_x_pieces(const LdcnArguments& a, int64_t first, int64_t last) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, blocks = ldcn_channel_blocks(a);
  for (int64_t piece = first; piece < last; ++piece) {
    const int64_t n = piece / blocks / a.groups, g = piece / blocks % a.groups, block = piece % blocks;
    const int64_t begin = depth * block / blocks, end = depth * (block + 1) / blocks;
    A* grad_x = static_cast<A*>(a.grad_x) + n * a.height * a.width * a.channels + g * depth;
    const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + g * depth;
    for (int64_t oh = 0; oh < a.out_height; ++oh)
      for (int64_t ow = 0; ow < a.out_width; ow += taps.positions) {
        const int64_t count = a.out_width - ow < taps.positions ? a.out_width - ow : taps.positions;
        taps.place(oh, ow, count);
        taps.compute(n, g, oh, ow, count);
        for (int64_t p = 0; p < count; ++p)
          cover_channels<A>(begin, end,
                            Scatter<T>{taps, p * taps.k, grad_y + oh * a.grad_y.h + (ow + p) * a.grad_y.w,
                                       {a.width * a.channels, a.channels}, grad_x});
      }
  }
}

template <template <class> class F>
void dispatch(const LdcnArguments& a, int64_t first, int64_t last) {
  switch (a.x.type) {
    case Scalar::f32: return F<float>::run(a, first, last);
    case Scalar::f64: return F<double>::run(a, first, last);
    case Scalar::f16: return F<half>::run(a, first, last);
    case Scalar::bf16: return F<bfloat16>::run(a, first, last);
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
