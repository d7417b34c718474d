// ldcn's gradient of x by sums of 64-bit integers, which come out the same in whatever order they are made.
//
// Every contribution weight * grad_y is multiplied by a power of two and rounded to an integer. The power is the largest that no
// sum can overflow with: from the largest finite numbers of grad_y and mask, and from how many contributions a sum can have at
// most, one of every tap. That leaves some 40 bits below the largest contribution, where float has 24.
//
// For float and the halves: double would lose by it.
#pragma once
#include "ldcn_cuda_kernels.cuh"

namespace dkic::gpu {

DKIC_DEVICE unsigned bits_of(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

DKIC_DEVICE bool is_finite(float value) { return value - value == 0; }

// The largest magnitude of t's finite numbers, [n, c, h, w], as a float's bits, which order as the floats do. `largest` begins
// at 0.
template <class Thread>
DKIC_DEVICE void ldcn_largest(const Thread& thread, const Strided& t, int64_t n, int64_t c, int64_t h, int64_t w,
                              unsigned* largest) {
  unsigned most = 0;
  for (int64_t i = thread.block() * kLdcnThreads + thread.index(); i < n * c * h * w; i += thread.blocks() * kLdcnThreads) {
    const int64_t pixel = i / c;
    const float value = read<float>(t, pixel / (h * w) * t.n + i % c * t.c + pixel / w % h * t.h + pixel % w * t.w);
    const unsigned bits = bits_of(std::fabs(value));
    if (is_finite(value) && bits > most) most = bits;
  }
  for (int distance = 16; distance; distance /= 2) {
    const unsigned other = thread.shuffle_xor(kAllLanes, most, distance);
    most = other > most ? other : most;
  }
  if (thread.index() % 32 == 0) thread.atomic_max(largest, most);
}

// The exponent of the power of two that contributions are multiplied by. Both largest are floats' bits.
DKIC_DEVICE int fixed_exponent(const LdcnArguments& a, unsigned largest_grad_y, unsigned largest_mask) {
  // A float below 2^e has the biased exponent e + 126. One bit is for the rounding of weights and products, and finite
  // contributions are below 2^128 whatever they come from.
  const int below = int(largest_grad_y >> 23) - 126 + int(largest_mask >> 23) - 126 + 1;
  const int contribution = below < 128 ? below : 128;
  int contributions = 0;  // their number's logarithm, rounded up
  while ((int64_t(1) << contributions) < a.out_height * a.out_width * a.kernel_h * a.kernel_w) ++contributions;
  const int exponent = 62 - contributions - contribution;
  return exponent < 126 ? exponent : 126;  // a power that float has, and its inverse: what lies below 2^-127 is lost
}

// A contribution that is not finite leaves NaN in the result, in whatever order it comes.
template <class T>
struct FixedSum {
  long long* sums;
  T* result;
  float scale;
  template <class Thread>
  DKIC_DEVICE void add(const Thread& thread, int64_t at, float value) const {
    if (is_finite(value)) {
      thread.atomic_add(sums + at, static_cast<long long>(llrintf(value * scale)));
    } else {
      result[at] = T(NAN);
    }
  }
};

// What the kernels below share: sums and grad_x begin at 0, both NHWC without gaps; largest[0] of grad_y, largest[1] of mask (of
// ones, where there is none).
template <class T>
struct FixedGradient {
  long long* sums;
  T* grad_x;
  const unsigned* largest;
};

template <class T, class Thread>
DKIC_DEVICE void ldcn_backward_x_fixed(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan,
                                       const FixedGradient<T>& to) {
  const int exponent = fixed_exponent(a, to.largest[0], to.largest[1]);
  ldcn_scatter<T>(thread, a, plan, FixedSum<T>{to.sums, to.grad_x, ldexpf(1, exponent)});
}

// From the sums to grad_x.
template <class T, class Thread>
DKIC_DEVICE void ldcn_round_fixed(const Thread& thread, const LdcnArguments& a, const FixedGradient<T>& to) {
  const float scale = ldexpf(1, -fixed_exponent(a, to.largest[0], to.largest[1]));
  const int64_t count = a.batch * a.channels * a.height * a.width;
  for (int64_t i = thread.block() * kLdcnThreads + thread.index(); i < count; i += thread.blocks() * kLdcnThreads) {
    if (float(to.grad_x[i]) == 0) to.grad_x[i] = T(float(to.sums[i]) * scale);
  }
}

}  // namespace dkic::gpu

#ifdef __CUDACC__
namespace dkic::gpu {

__global__ void __launch_bounds__(kLdcnThreads)
    ldcn_largest_kernel(Strided t, int64_t n, int64_t c, int64_t h, int64_t w, unsigned* largest) {
  ldcn_largest(CudaThread(), t, n, c, h, w, largest);
}
template <class T>
__global__ void __launch_bounds__(kLdcnThreads, 3)
    ldcn_backward_x_fixed_kernel(LdcnArguments a, LdcnPlan plan, FixedGradient<T> to) {
  ldcn_backward_x_fixed<T>(CudaThread(), a, plan, to);
}
template <class T>
__global__ void __launch_bounds__(kLdcnThreads) ldcn_round_fixed_kernel(LdcnArguments a, FixedGradient<T> to) {
  ldcn_round_fixed<T>(CudaThread(), a, to);
}

}  // namespace dkic::gpu
#endif
