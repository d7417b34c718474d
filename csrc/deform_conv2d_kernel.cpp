// Deformable convolution on the CPU but for its matrix products: samples into columns, and their gradients. Compiled once per
// instruction set (DKIC_ISA); deform_conv2d_cpu.cpp chooses one at run time and multiplies.
#include "deform_conv2d_kernel.h"

#include "cover_channels.h"
#include "ldcn_taps.h"

namespace dkic::DKIC_ISA {
namespace {

using Arguments = DeformConv2dArguments;

// Calls f(n, oh, ow, count, at) for positions [first, last) in runs within a row, none longer than `longest`; `at` counts from
// `first`.
template <class F>
void for_runs(const Arguments& a, int64_t first, int64_t last, int64_t longest, const F& f) {
  for (int64_t position = first; position < last;) {
    const int64_t n = position / a.out_area(), oh = position / a.out_width % a.out_height, ow = position % a.out_width;
    int64_t count = a.out_width - ow;
    if (count > longest) count = longest;
    if (count > last - position) count = last - position;
    f(n, oh, ow, count, position - first);
    position += count;
  }
}

// Calls f(channel, count, column) for runs of neighbouring channels in [first, last): side by side in x and in a column, where
// `column` is the place of the first in tap 0, and tap_step(a) later comes that of the next tap.
template <class F>
void for_channels(const Arguments& a, int64_t first, int64_t last, const F& f) {
  const int64_t depth = a.channels / a.weight_groups;
  for (int64_t channel = first; channel < last;) {
    const int64_t group = channel / depth, within = channel % depth;
    int64_t count = a.x.c == 1 ? depth - within : 1;
    if (count > last - channel) count = last - channel;
    f(channel, count, group * a.taps() * depth + within);
    channel += count;
  }
}
int64_t tap_step(const Arguments& a) { return a.channels / a.weight_groups; }

// The four corners' weights of tap t, 0 where one lies outside (they may be NaN there), and the sample they give.
template <class A>
struct Weights {
  template <class T>
  Weights(const Taps<T>& taps, int64_t t) {
    for (int bit = 0; bit < 4; ++bit) w[bit] = taps.inside[t] >> bit & 1 ? taps.weights[bit * taps.size + t] : A(0);
  }
  template <int W>
  Vector<A, W> blend(const Vector<A, W> (&v)[4]) const {
    return (w[0] * v[0] + w[1] * v[1]) + (w[2] * v[2] + w[3] * v[3]);
  }
  A w[4];
};

// The corners of a sample around q, those that lie inside; 0 in the place of the others.
template <int W, class T, class V>
inline void load_corners(V (&v)[4], const T* q, const Corners& corner, int inside) {
  if (inside == 15) [[likely]] {
    for (int bit = 0; bit < 4; ++bit) v[bit] = load<W>(q + corner[bit]);
  } else {
    for (int bit = 0; bit < 4; ++bit) v[bit] = inside >> bit & 1 ? load<W>(q + corner[bit]) : V{};
  }
}

// Writes a tap's samples of some channels to a column.
template <class T>
struct Sample {
  using A = typename Accumulator<T>::type;
  const T* q;
  Corners corner;
  int inside;
  Weights<A> weights;
  A* column;

  template <int W, int NV>
  void run(int64_t channel) const {
    for (int v = 0; v < NV; ++v) {
      Vector<A, W> corners[4];
      load_corners<W>(corners, q + channel + v * W, corner, inside);
      store<W>(column + channel + v * W, weights.template blend<W>(corners));
    }
  }
};

template <class T>
void columns(const Arguments& a, int64_t first, int64_t last, void* into) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups;
  for_runs(a, first, last, taps.positions, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    taps.place(oh);
    for (int64_t g = 0; g < a.groups; ++g) {
      taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
      for_channels(a, g * depth, (g + 1) * depth, [&](int64_t channel, int64_t channels, int64_t column) {
        const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + channel * a.x.c;
        for (int64_t p = 0; p < count; ++p) {
          A* to = static_cast<A*>(into) + (at + p) * a.column_length() + column;
          int64_t t = p * taps.position_step;
          for (int64_t tap = 0; tap < taps.k; ++tap, t += taps.tap_step, to += tap_step(a))
            cover_channels<A>(0, channels,
                              Sample<T>{x + taps.start[t], {a.x.h, a.x.w}, int(taps.inside[t]), Weights<A>(taps, t), to});
        }
      });
    }
  });
}

// Adds the dot products of a tap's four corners with its gradient, over some channels, to dot[4]; and does what Sample does,
// where a column is wanted.
template <class T>
struct Dots {
  using A = typename Accumulator<T>::type;
  const T* q;
  Corners corner;
  int inside;
  Weights<A> weights;
  const A* grad;
  A* column;
  A* dot;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    V sums[4] = {};
    for (int v = 0; v < NV; ++v) {
      V corners[4];
      load_corners<W>(corners, q + channel + v * W, corner, inside);
      const V g = load<W>(grad + channel + v * W);
      for (int bit = 0; bit < 4; ++bit) {
        // A corner outside counts nothing, even where the gradient is infinite.
        if (inside == 15 || inside >> bit & 1) sums[bit] += g * corners[bit];
      }
      if (column) store<W>(column + channel + v * W, weights.template blend<W>(corners));
    }
    add_sums<A, W>(dot, sums);
  }
};

// to[i] = value, in to's type.
template <class A>
void write(void* to, Scalar type, int64_t i, A value) {
  switch (type) {
    case Scalar::f32:
      static_cast<float*>(to)[i] = float(value);
      break;
    case Scalar::f64:
      static_cast<double*>(to)[i] = double(value);
      break;
    case Scalar::f16:
      static_cast<half*>(to)[i] = to_half(float(value));
      break;
    case Scalar::bf16:
      static_cast<bfloat16*>(to)[i] = to_bfloat16(float(value));
      break;
  }
}

template <class T>
void backward_samples(const Arguments& a, int64_t first, int64_t last, const void* grad_columns, void* into) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, k = taps.k;
  A* dots = new A[taps.size * 4];
  for_runs(a, first, last, taps.positions, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    taps.place(oh);
    for (int64_t g = 0; g < a.groups; ++g) {
      taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
      std::memset(dots, 0, sizeof(A) * taps.size * 4);
      for_channels(a, g * depth, (g + 1) * depth, [&](int64_t channel, int64_t channels, int64_t column) {
        const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + channel * a.x.c;
        for (int64_t p = 0; p < count; ++p) {
          int64_t i = (at + p) * a.column_length() + column, t = p * taps.position_step;
          for (int64_t tap = 0; tap < k; ++tap, t += taps.tap_step, i += tap_step(a))
            cover_channels<A>(0, channels,
                              Dots<T>{x + taps.start[t],
                                      {a.x.h, a.x.w},
                                      int(taps.inside[t]),
                                      Weights<A>(taps, t),
                                      static_cast<const A*>(grad_columns) + i,
                                      into ? static_cast<A*>(into) + i : nullptr,
                                      dots + 4 * t});
        }
      });
      for (int64_t p = 0; p < count; ++p)
        for (int64_t tap = 0; tap < k; ++tap) {
          const int64_t t = p * taps.position_step + tap * taps.tap_step, cell = (first + at + p) * a.groups + g;
          const A *dot = dots + 4 * t, fy = taps.fraction_y[t], fx = taps.fraction_x[t], m = taps.mask_at(t);
          const A top = dot[0] + fx * (dot[1] - dot[0]), bottom = dot[2] + fx * (dot[3] - dot[2]);
          const bool outside = !taps.inside[t];
          if (a.grad_offset) {
            const A by_x = dot[1] - dot[0] + fy * (dot[3] - dot[2] - dot[1] + dot[0]);
            write(a.grad_offset, a.offset.type, (cell * k + tap) * 2, outside ? A(0) : m * (bottom - top));
            write(a.grad_offset, a.offset.type, (cell * k + tap) * 2 + 1, outside ? A(0) : m * by_x);
          }
          if (a.grad_mask) write(a.grad_mask, a.mask.type, cell * k + tap, outside ? A(0) : top + fy * (bottom - top));
        }
    }
  });
  delete[] dots;
}

// Adds weight times gradient to the four corners of a tap, for some channels.
template <class A>
struct Scatter {
  A* q;
  Corners corner;
  int inside;
  Weights<A> weights;
  const A* grad;

  template <int W, int NV>
  void run(int64_t channel) const {
    Vector<A, W> g[NV];
    for (int v = 0; v < NV; ++v) g[v] = load<W>(grad + channel + v * W);
    for (int bit = 0; bit < 4; ++bit) {
      if (inside != 15 && !(inside >> bit & 1)) continue;
      A* to = q + corner[bit] + channel;
      for (int v = 0; v < NV; ++v) store<W>(to + v * W, load<W>(to + v * W) + weights.w[bit] * g[v]);
    }
  }
};

template <class T>
void backward_x(const Arguments& a, int64_t first, int64_t last, const void* grad_columns, int64_t piece) {
  using A = typename Accumulator<T>::type;
  Taps<T> taps(a);
  const int64_t depth = a.channels / a.groups, blocks = a.channel_blocks();
  const int64_t image = first / a.out_area() + piece / blocks / a.groups, g = piece / blocks % a.groups, block = piece % blocks;
  const int64_t begin = g * depth + depth * block / blocks, end = g * depth + depth * (block + 1) / blocks;
  const int64_t image_first = image * a.out_area(), image_last = image_first + a.out_area();
  const int64_t from = first > image_first ? first : image_first, to = last < image_last ? last : image_last;
  const int64_t h = a.width * a.channels, w = a.channels;  // of grad_x
  for_runs(a, from, to, taps.positions, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    taps.place(oh);
    taps.compute(n, g, oh, ow, count, h, w);
    for_channels(a, begin, end, [&](int64_t channel, int64_t channels, int64_t column) {
      A* grad_x = static_cast<A*>(a.grad_x) + n * a.height * h + channel;
      for (int64_t p = 0; p < count; ++p) {
        const A* grad = static_cast<const A*>(grad_columns) + (from - first + at + p) * a.column_length() + column;
        int64_t t = p * taps.position_step;
        for (int64_t tap = 0; tap < taps.k; ++tap, t += taps.tap_step, grad += tap_step(a))
          cover_channels<A>(0, channels,
                            Scatter<A>{grad_x + taps.start[t], {h, w}, int(taps.inside[t]), Weights<A>(taps, t), grad});
      }
    });
  });
}

template <class T>
struct AddBias {
  using A = typename Accumulator<T>::type;
  const A *row, *bias;
  T* y;

  template <int W, int NV>
  void run(int64_t channel) const {
    for (int v = 0; v < NV; ++v) {
      const int64_t i = channel + v * W;
      store<W>(y + i, bias ? load<W>(row + i) + load<W>(bias + i) : load<W>(row + i));
    }
  }
};

template <class T>
void write_rows(const Arguments& a, int64_t first, int64_t last, const void* rows) {
  using A = typename Accumulator<T>::type;
  const A *row = static_cast<const A*>(rows), *bias = static_cast<const A*>(a.bias);
  for (int64_t position = first; position < last; ++position, row += a.out_channels)
    cover_channels<A>(0, a.out_channels, AddBias<T>{row, bias, static_cast<T*>(a.y) + position * a.out_channels});
}

template <class T>
struct Widen {
  using A = typename Accumulator<T>::type;
  const T* from;
  A* to;

  template <int W, int NV>
  void run(int64_t channel) const {
    for (int v = 0; v < NV; ++v) store<W>(to + channel + v * W, load<W>(from + channel + v * W));
  }
};

template <class T>
void read_rows(const Arguments& a, int64_t first, int64_t last, void* rows) {
  using A = typename Accumulator<T>::type;
  const Strided& from = a.grad_y;
  for_runs(a, first, last, a.out_width, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    const T* grad_y = static_cast<const T*>(from.data) + n * from.n + oh * from.h + ow * from.w;
    A* row = static_cast<A*>(rows) + at * a.out_channels;
    if (from.c == 1) {
      for (int64_t p = 0; p < count; ++p)
        cover_channels<A>(0, a.out_channels, Widen<T>{grad_y + p * from.w, row + p * a.out_channels});
    } else {
      for (int64_t channel = 0; channel < a.out_channels; ++channel)
        for (int64_t p = 0; p < count; ++p)
          row[p * a.out_channels + channel] = load<1>(grad_y + channel * from.c + p * from.w)[0];
    }
  });
}

// Calls f.template operator()<T>() with x's type.
template <class F>
void dispatch(const Arguments& a, const F& f) {
  switch (a.x.type) {
    case Scalar::f32:
      return f.template operator()<float>();
    case Scalar::f64:
      return f.template operator()<double>();
    case Scalar::f16:
      return f.template operator()<half>();
    case Scalar::bf16:
      return f.template operator()<bfloat16>();
  }
}

}  // namespace

extern const DeformConv2dKernel deform_conv2d_kernel = {
    [](const Arguments& a, int64_t first, int64_t last, void* into) {
      dispatch(a, [&]<class T>() { columns<T>(a, first, last, into); });
    },
    [](const Arguments& a, int64_t first, int64_t last, const void* rows) {
      dispatch(a, [&]<class T>() { write_rows<T>(a, first, last, rows); });
    },
    [](const Arguments& a, int64_t first, int64_t last, void* rows) {
      dispatch(a, [&]<class T>() { read_rows<T>(a, first, last, rows); });
    },
    [](const Arguments& a, int64_t first, int64_t last, const void* grad_columns, void* into) {
      dispatch(a, [&]<class T>() { backward_samples<T>(a, first, last, grad_columns, into); });
    },
    [](const Arguments& a, int64_t first, int64_t last, const void* grad_columns, int64_t piece) {
      dispatch(a, [&]<class T>() { backward_x<T>(a, first, last, grad_columns, piece); });
    },
};

}  // namespace dkic::DKIC_ISA
