// Deformable convolution on the CPU without its matrix products: samples to columns, and their gradients. Compiled once per
// instruction set (DKIC_ISA); deform_conv2d_cpu.cpp chooses one at run time and multiplies.
#include "cpu/deform_conv2d_kernel.h"

#include "cpu/buffer.h"
#include "cpu/deform_conv2d_pixels.h"

namespace dkic::DKIC_ISA {
namespace {

// Writes a pixel's samples of a run of channels to its column.
template <class T>
struct Sample {
  using A = typename Accumulator<T>::type;
  const PixelTaps<T>& taps;
  const T* x;
  A* column;
  int64_t tap_step;

  template <int W, int NV>
  void run(int64_t channel) const {
    const T* from = x + channel;
    A* to = column + channel;
    const int64_t by = tap_step;
    const Corners corner = taps.corner;
    taps.for_taps([=](int64_t number, const Tap<T>& tap, auto inside) {
      for (int v = 0; v < NV; ++v) store<W>(to + number * by + v * W, blend<W>(from + tap.start() + v * W, corner, tap, inside));
    });
  }
};

// Prefetches the pixels of x that the taps of a run read with offsets of up to kReach: all of them, or only the last row, which
// the run above did not prefetch. The products after every block evict them from the second-level cache. (1x192x128x128, 192
// outputs: 145 to 138 ms.)
constexpr int64_t kReach = 6;

template <class T>
void prefetch_reached(const Arguments& a, int64_t n, int64_t oh, int64_t ow, int64_t count, bool all, const Range& range) {
  const int64_t top = oh * a.stride_h - a.padding_h, left = ow * a.stride_w - a.padding_w;
  const int64_t last = top + a.dilation_h * (a.kernel_h - 1) + kReach, first = all ? top - kReach : last;
  const int64_t right = left + (count - 1) * a.stride_w + a.dilation_w * (a.kernel_w - 1) + kReach;
  for (int64_t h = first < 0 ? 0 : first; h <= last && h < a.height; ++h)
    for (int64_t w = left < kReach ? 0 : left - kReach; w <= right && w < a.width; ++w)
      prefetch(static_cast<const T*>(a.x.data) + n * a.x.n + h * a.x.h + w * a.x.w + range.begin, range.end - range.begin);
}

template <class T>
void columns(const Arguments& a, Range range, void* into) {
  using A = typename Accumulator<T>::type;
  ConvTaps<T> taps(a);
  const int64_t depth = a.channels / a.groups, length = (range.end - range.begin) * taps.k;
  for_pixels(a, taps.positions, range.first, range.last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    if (a.x.c == 1) prefetch_reached<T>(a, n, oh, ow, count, at == 0, range);
    for (int64_t begin = range.begin, end; begin < range.end; begin = end) {
      const int64_t g = begin / depth;
      end = (g + 1) * depth < range.end ? (g + 1) * depth : range.end;
      taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
      for_channels(a, begin, end, a.x.c == 1, [&](int64_t channel, int64_t channels, int64_t column) {
        const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + channel * a.x.c;
        A* to = static_cast<A*>(into) + at * length + (begin - range.begin) * taps.k + column;
        for (int64_t p = 0; p < count; ++p, to += length) {
          const PixelTaps<T> pixel(taps, p, a.x.h, a.x.w);
          cover_channels<A>(0, channels, Sample<T>{pixel, x, to, a.run});
        }
      });
    }
  });
}

// Adds the dot products of each tap's four corners with its gradient, over a run of channels, to dots [tap][4]; and writes the
// samples to the column, unless that is nullptr.
template <class T>
struct Dots {
  using A = typename Accumulator<T>::type;
  const PixelTaps<T>& taps;
  const T* x;
  const A* grad;
  A *column, *dots;
  int64_t tap_step;

  template <int W, int NV>
  void run(int64_t channel) const {
    using V = Vector<A, W>;
    const T* from = x + channel;
    const A* from_grad = grad + channel;
    A *to = column ? column + channel : nullptr, *sums = dots;
    const int64_t by = tap_step;
    const Corners corner = taps.corner;
    taps.for_taps([=](int64_t number, const Tap<T>& tap, auto inside) {
      V dot[4] = {};
      for (int v = 0; v < NV; ++v) {
        const T* q = from + tap.start() + v * W;
        const V g = load<W>(from_grad + number * by + v * W);
        for (int bit = 0; bit < 4; ++bit)
          if (inside.differentiated(bit)) dot[bit] += g * load<W>(q + corner[bit]);
        if (to) store<W>(to + number * by + v * W, blend<W>(q, corner, tap, inside));
      }
      add_sums<A, W>(sums + 4 * number, dot);
    });
  }
};

template <class T>
void backward_samples(const Arguments& a, Range range, const void* grad_columns, void* into, void* parts, int64_t step) {
  using A = typename Accumulator<T>::type;
  ConvTaps<T> taps(a);
  const int64_t k = taps.k, length = (range.end - range.begin) * k, g = range.begin / (a.channels / a.groups);
  const Buffer<A> sums(taps.positions * k * 4);
  A* const dots = sums.data();
  for_pixels(a, taps.positions, range.first, range.last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    taps.compute(n, g, oh, ow, count, a.x.h, a.x.w);
    std::memset(dots, 0, sizeof(A) * taps.positions * k * 4);
    for_channels(a, range.begin, range.end, a.x.c == 1, [&](int64_t channel, int64_t channels, int64_t column) {
      const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + channel * a.x.c;
      for (int64_t p = 0; p < count; ++p) {
        const PixelTaps<T> pixel(taps, p, a.x.h, a.x.w);
        const int64_t i = (at + p) * length + column;
        A* to = into ? static_cast<A*>(into) + i : nullptr;
        cover_channels<A>(0, channels, Dots<T>{pixel, x, static_cast<const A*>(grad_columns) + i, to, dots + p * k * 4, a.run});
      }
    });
    for (int64_t p = 0; p < count; ++p) {
      A* part = static_cast<A*>(parts) + (at + p) * step;
      const A* dot = dots + p * k * 4;
      for (int64_t number = 0; number < k; ++number, dot += 4, part += 3) {
        const int64_t t = p * taps.position_step + number * taps.tap_step;
        const Tap<T> tap = taps[t];
        const A fy = tap.fraction_y(), fx = tap.fraction_x(), m = a.mask.data ? taps.m[t] : A(1);
        const A top = dot[0] + fx * (dot[1] - dot[0]), bottom = dot[2] + fx * (dot[3] - dot[2]);
        const bool differentiated = tap.inside() >> kGradientShift, sampled = tap.inside() & kAllCorners;
        part[0] = differentiated ? m * (bottom - top) : A(0);
        part[1] = differentiated ? m * (dot[1] - dot[0] + fy * (dot[3] - dot[2] - dot[1] + dot[0])) : A(0);
        part[2] = sampled ? top + fy * (bottom - top) : A(0);
      }
    }
  });
}

// to[i] = value, converted to the type of `to`.
template <class A>
void write(void* to, Scalar type, int64_t i, A value) {
  with_scalar<half, bfloat16>(type, [&]<class To>() {
    if constexpr (sizeof(To) == 2) {
      store<1>(static_cast<To*>(to) + i, Vector<float, 1>{float(value)});
    } else {
      static_cast<To*>(to)[i] = To(value);
    }
  });
}

template <class T>
void write_sample_gradients(const Arguments& a, int64_t first, int64_t last, const void* all_parts, int64_t parts_a_group) {
  using A = typename Accumulator<T>::type;
  const int64_t k = a.kernel_h * a.kernel_w;
  const A* parts = static_cast<const A*>(all_parts);
  for_pixels(a, ConvTaps<T>(a).positions, first, last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t) {
    for (int64_t i = 0; i < count * a.groups; ++i) {
      for (int64_t tap = 0; tap < k; ++tap) {
        A sums[3] = {};
        for (int64_t part = 0; part < parts_a_group; ++part)
          for (int j = 0; j < 3; ++j) sums[j] += parts[(part * k + tap) * 3 + j];
        const int64_t channel = i % a.groups * k + tap, column = ow + i / a.groups;
        if (a.grad_offset) {
          const Steps& to = a.grad_offset_steps;
          const int64_t at = n * to.n + channel * 2 * to.c + oh * to.h + column * to.w;
          write(a.grad_offset, a.offset.type, at, sums[0]);
          write(a.grad_offset, a.offset.type, at + to.c, sums[1]);
        }
        if (a.grad_mask) {
          const Steps& to = a.grad_mask_steps;
          write(a.grad_mask, a.mask.type, n * to.n + channel * to.c + oh * to.h + column * to.w, sums[2]);
        }
      }
      parts += parts_a_group * k * 3;
    }
  });
}

// Adds weight times gradient to the four corners of a pixel's taps, for a run of channels.
template <class T>
struct Scatter {
  using A = typename Accumulator<T>::type;
  const PixelTaps<T>& taps;
  const A* grad;
  A* grad_x;
  int64_t tap_step;

  template <int W, int NV>
  void run(int64_t channel) const {
    const A* from = grad + channel;
    A* into = grad_x + channel;
    const int64_t by = tap_step;
    const Corners corner = taps.corner;
    taps.for_taps([=](int64_t number, const Tap<T>& tap, auto inside) {
      Vector<A, W> g[NV];
      for (int v = 0; v < NV; ++v) g[v] = load<W>(from + number * by + v * W);
      for (int bit = 0; bit < 4; ++bit) {
        if (!inside(bit)) continue;
        A* to = into + tap.start() + corner[bit];
        for (int v = 0; v < NV; ++v) store<W>(to + v * W, load<W>(to + v * W) + tap.weight(bit) * g[v]);
      }
    });
  }
};

template <class T>
void backward_x(const Arguments& a, Range range, const void* grad_columns) {
  using A = typename Accumulator<T>::type;
  ConvTaps<T> taps(a);
  const int64_t length = (range.end - range.begin) * taps.k, g = range.begin / (a.channels / a.groups);
  const int64_t h = a.width * a.channels, w = a.channels;  // of grad_x
  for_pixels(a, taps.positions, range.first, range.last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    taps.compute(n, g, oh, ow, count, h, w);
    for_channels(a, range.begin, range.end, true, [&](int64_t channel, int64_t channels, int64_t column) {
      A* grad_x = static_cast<A*>(a.grad_x) + n * a.height * h + channel;
      const A* grad = static_cast<const A*>(grad_columns) + at * length + column;
      for (int64_t p = 0; p < count; ++p, grad += length) {
        const PixelTaps<T> pixel(taps, p, h, w);
        cover_channels<A>(0, channels, Scatter<T>{pixel, grad, grad_x, a.run});
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
    for (int64_t i = channel; i < channel + W * NV; i += W)
      store<W>(y + i, bias ? load<W>(row + i) + load<W>(bias + i) : load<W>(row + i));
  }
};

template <class T>
void write_rows(const Arguments& a, int64_t first, int64_t last, const void* rows) {
  using A = typename Accumulator<T>::type;
  for_pixels(a, ConvTaps<T>(a).positions, first, last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
    const A *row = static_cast<const A*>(rows) + at * a.out_channels, *bias = static_cast<const A*>(a.bias);
    const Steps& to = a.y_steps;
    T* y = static_cast<T*>(a.y) + n * to.n + oh * to.h + ow * to.w;
    if (to.c == 1) {
      for (int64_t p = 0; p < count; ++p)
        cover_channels<A>(0, a.out_channels, AddBias<T>{row + p * a.out_channels, bias, y + p * to.w});
    } else {
      for (int64_t channel = 0; channel < a.out_channels; ++channel, ++row, y += to.c) {
        const A add = bias ? bias[channel] : A(0);
        for (int64_t p = 0; p < count; ++p) store<1>(y + p * to.w, Vector<A, 1>{row[p * a.out_channels] + add});
      }
    }
  });
}

template <class T>
struct Widen {
  const T* from;
  typename Accumulator<T>::type* to;

  template <int W, int NV>
  void run(int64_t channel) const {
    for (int64_t i = channel; i < channel + W * NV; i += W) store<W>(to + i, load<W>(from + i));
  }
};

template <class T>
void read_rows(const Arguments& a, int64_t first, int64_t last, void* rows) {
  using A = typename Accumulator<T>::type;
  const Strided& from = a.grad_y;
  for_pixels(a, ConvTaps<T>(a).positions, first, last, [&](int64_t n, int64_t oh, int64_t ow, int64_t count, int64_t at) {
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

template <class T>
void sum_rows(const Arguments& a, int64_t count, const void* rows, double* sums) {
  const auto* row = static_cast<const typename Accumulator<T>::type*>(rows);
  for (int64_t i = 0; i < count; ++i, row += a.out_channels)
    for (int64_t c = 0; c < a.out_channels; ++c) sums[c] += double(row[c]);
}

}  // namespace

extern const DeformConv2dKernel deform_conv2d_kernel = {
    [](const Arguments& a, Range range, void* into) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { columns<T>(a, range, into); });
    },
    [](const Arguments& a, int64_t first, int64_t last, const void* rows) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { write_rows<T>(a, first, last, rows); });
    },
    [](const Arguments& a, int64_t first, int64_t last, void* rows) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { read_rows<T>(a, first, last, rows); });
    },
    [](const Arguments& a, int64_t count, const void* rows, double* sums) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { sum_rows<T>(a, count, rows, sums); });
    },
    [](const Arguments& a, Range range, const void* grad_columns, void* into, void* parts, int64_t step) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { backward_samples<T>(a, range, grad_columns, into, parts, step); });
    },
    [](const Arguments& a, int64_t first, int64_t last, const void* parts, int64_t parts_a_group) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { write_sample_gradients<T>(a, first, last, parts, parts_a_group); });
    },
    [](const Arguments& a, Range range, const void* grad_columns) {
      with_scalar<half, bfloat16>(a.x.type, [&]<class T>() { backward_x<T>(a, range, grad_columns); });
    },
};

}  // namespace dkic::DKIC_ISA
