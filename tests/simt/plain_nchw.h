// Baseline of ldcn's kernels: the usual implementation in NCHW, with one thread per element, which computes and reads every tap
// again for every channel. It has less traffic than torchvision's deform_conv2d with the same loops, which also writes every
// sample to a buffer of `channels * taps` elements per pixel, reads it back to sum the samples, and uses separate threads for dy
// and dx.
#pragma once
#include "cuda/ldcn_cuda_kernels.cuh"

namespace simt {

using dkic::LdcnArguments;
using dkic::Pack;
using dkic::Strided;

// One tap of one group at one position.
struct PlainTap {
  dkic::gpu::Axis<float> y, x;
  float mask;
  int64_t corners[4];  // (0,0) (0,1) (1,0) (1,1) in a channel of H * W elements; -1 outside
  float weights[4];    // without the mask
};

template <class Thread>
PlainTap plain_tap(const Thread& thread, const LdcnArguments& a, int64_t n, int64_t g, int64_t k, int64_t oh, int64_t ow) {
  const auto read = [&](const Strided& t, int64_t c) {
    return dkic::gpu::read<1, float>(thread, t, n * t.n + c * t.c + oh * t.h + ow * t.w).v[0];
  };
  const int64_t channel = g * a.kernel_h * a.kernel_w + k;
  PlainTap tap;
  const float dy = read(a.offset, channel * 2), dx = read(a.offset, channel * 2 + 1);
  tap.mask = a.mask.data ? read(a.mask, channel) : 1;
  const int64_t row = oh * a.stride_h - a.padding_h + k / a.kernel_w * a.dilation_h;
  const int64_t column = ow * a.stride_w - a.padding_w + k % a.kernel_w * a.dilation_w;
  tap.y = dkic::gpu::sample_axis(float(row) + dy, int(a.height)),
  tap.x = dkic::gpu::sample_axis(float(column) + dx, int(a.width));
  for (int corner = 0; corner < 4; ++corner) {
    const bool low = corner < 2, left = corner % 2 == 0;
    const bool inside = (low ? tap.y.low_inside : tap.y.high_inside) && (left ? tap.x.low_inside : tap.x.high_inside);
    tap.corners[corner] = inside ? (tap.y.low + !low) * a.width + tap.x.low + !left : -1;
    tap.weights[corner] = (low ? 1 - tap.y.fraction : tap.y.fraction) * (left ? 1 - tap.x.fraction : tap.x.fraction);
  }
  return tap;
}

struct PlainBody {
  static constexpr int kThreads = 256;
  LdcnArguments a;

  template <class Thread>
  static int64_t element(const Thread& thread) {
    return thread.block() * kThreads + thread.index();
  }
  int64_t pixels() const { return a.out_height * a.out_width; }
  int64_t taps() const { return a.kernel_h * a.kernel_w; }
  int64_t depth() const { return a.channels / a.groups; }
  // Index in x; all tensors are contiguous NCHW.
  int64_t channel_begin(int64_t n, int64_t c) const { return (n * a.channels + c) * a.height * a.width; }
};

// One thread per element of y.
template <class T>
struct PlainForward : PlainBody {
  static constexpr const char* kName = "plain_forward";

  template <class Thread>
  void operator()(const Thread& thread) const {
    const int64_t i = element(thread), ow = i % a.out_width, oh = i / a.out_width % a.out_height;
    const int64_t c = i / pixels() % a.channels, n = i / pixels() / a.channels;
    if (n >= a.batch) return;
    float sum = 0;
    for (int64_t k = 0; k < taps(); ++k) {
      const PlainTap tap = plain_tap(thread, a, n, c / depth(), k, oh, ow);
      for (int corner = 0; corner < 4; ++corner) {
        if (tap.corners[corner] < 0) continue;
        const T* from = static_cast<const T*>(a.x.data) + channel_begin(n, c) + tap.corners[corner];
        sum += tap.mask * tap.weights[corner] * float(thread.template load<1>(from).v[0]);
      }
    }
    thread.template store<1>(static_cast<T*>(a.y) + i, Pack<T, 1>{{T(sum)}});
  }
};

// One thread per element of grad_y; the gradient of x is accumulated in float.
template <class T>
struct PlainBackwardX : PlainBody {
  static constexpr const char* kName = "plain_backward_x";

  template <class Thread>
  void operator()(const Thread& thread) const {
    const int64_t i = element(thread), ow = i % a.out_width, oh = i / a.out_width % a.out_height;
    const int64_t c = i / pixels() % a.channels, n = i / pixels() / a.channels;
    if (n >= a.batch) return;
    const float g = float(thread.template load<1>(static_cast<const T*>(a.grad_y.data) + i).v[0]);
    for (int64_t k = 0; k < taps(); ++k) {
      const PlainTap tap = plain_tap(thread, a, n, c / depth(), k, oh, ow);
      for (int corner = 0; corner < 4; ++corner) {
        if (tap.corners[corner] < 0) continue;
        float* to = static_cast<float*>(a.grad_x) + channel_begin(n, c) + tap.corners[corner];
        thread.atomic_add(to, tap.mask * tap.weights[corner] * g);
      }
    }
  }
};

// One thread per tap and position: gradients of its dy, dx and mask.
template <class T>
struct PlainBackwardSamples : PlainBody {
  static constexpr const char* kName = "plain_backward_samples";

  template <class Thread>
  void operator()(const Thread& thread) const {
    const int64_t i = element(thread), p = i % pixels(), k = i / pixels() % taps(), g = i / pixels() / taps() % a.groups;
    const int64_t n = i / pixels() / taps() / a.groups;
    if (n >= a.batch) return;
    const PlainTap tap = plain_tap(thread, a, n, g, k, p / a.out_width, p % a.out_width);
    float dots[4] = {};  // dot products over channels of grad_y and each corner
    for (int64_t c = g * depth(); c < (g + 1) * depth(); ++c) {
      const T* grad_y = static_cast<const T*>(a.grad_y.data) + (n * a.channels + c) * pixels() + p;
      const float gradient = float(thread.template load<1>(grad_y).v[0]);
      for (int corner = 0; corner < 4; ++corner) {
        if (tap.corners[corner] < 0) continue;
        const T* from = static_cast<const T*>(a.x.data) + channel_begin(n, c) + tap.corners[corner];
        dots[corner] += gradient * float(thread.template load<1>(from).v[0]);
      }
    }
    const float top = dots[1] - dots[0], bottom = dots[3] - dots[2], left = dots[2] - dots[0], right = dots[3] - dots[1];
    float of_mask = 0;
    for (int corner = 0; corner < 4; ++corner) of_mask += tap.weights[corner] * dots[corner];
    const int64_t channel = (n * a.groups + g) * taps() + k;
    float* grad_offset = static_cast<float*>(a.grad_offset) + channel * 2 * pixels() + p;
    thread.template store<1>(grad_offset, {{tap.mask * (left + tap.x.fraction * (right - left))}});
    thread.template store<1>(grad_offset + pixels(), {{tap.mask * (top + tap.y.fraction * (bottom - top))}});
    if (a.grad_mask) thread.template store<1>(static_cast<float*>(a.grad_mask) + channel * pixels() + p, {{of_mask}});
  }
};

}  // namespace simt
