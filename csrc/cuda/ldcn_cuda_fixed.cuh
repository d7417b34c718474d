// Deterministic gradient of x of ldcn: it is accumulated in 64-bit integers, whose sum does not depend on the order.
//
// Every contribution weight * grad_y is scaled by a power of two and rounded to an integer. The power is the largest for which no
// sum can overflow, given the largest finite magnitudes of grad_y and mask and the maximum number of contributions, one per tap.
// The largest contribution then has a precision of about 40 bits; float has 24. Double has 53: a second integer accumulates the
// remainders, about 40 bits further down.
#pragma once
#include "cuda/ldcn_cuda_kernels.cuh"

namespace dkic::gpu {

// The magnitude of a number below 2^e is e + kExponentBias; the magnitude of 0 is 0.
constexpr int kExponentBias = 2048;

template <class A>
DKIC_DEVICE bool is_finite(A value) {
  return value - value == 0;
}

// Atomic maximum of the magnitudes of the finite elements of t, [n, c, h, w], in the accumulator type A. `largest` is initialized
// to 0.
template <class A, class Thread>
DKIC_DEVICE void ldcn_largest(const Thread& thread, const Strided& t, int64_t n, int64_t c, int64_t h, int64_t w,
                              unsigned* largest) {
  A most = 0;
  for (int64_t i = thread.block() * kLdcnThreads + thread.index(); i < n * c * h * w; i += thread.blocks() * kLdcnThreads) {
    // Adjacent threads read adjacent elements.
    const int64_t channel = t.c == 1 ? i % c : i / (w * h) % c, rest = t.c == 1 ? i / c : i;
    const int64_t image = t.c == 1 ? rest / (w * h) : i / (w * h * c);
    const int64_t at = image * t.n + channel * t.c + rest / w % h * t.h + rest % w * t.w;
    const A value = std::fabs(read<1, A>(thread, t, at).v[0]);
    if (is_finite(value) && value > most) most = value;
  }
  for (int distance = 16; distance; distance /= 2) {
    const A other = thread.shuffle_xor(kAllLanes, most, distance);
    most = other > most ? other : most;
  }
  if (thread.index() % 32 == 0 && most > 0) thread.atomic_max(largest, unsigned(std::ilogb(most) + 1 + kExponentBias));
}

// Exponents of the powers of two that scale contributions and their remainders.
struct FixedExponents {
  int first, second;
};

// largest: the magnitudes of grad_y and, if present, of mask.
template <class A, class Thread>
DKIC_DEVICE FixedExponents fixed_exponents(const Thread& thread, const LdcnArguments& a, const unsigned* largest) {
  // Limits of exponents: of finite numbers, and of powers with a finite inverse and a finite second power.
  constexpr int kMost = sizeof(A) == 8 ? 1024 : 128, kLimit = sizeof(A) == 8 ? 900 : 126;
  // One extra bit for the rounding of weights and products.
  const unsigned of_mask = a.mask.data ? thread.template load<1>(largest + 1).v[0] : kExponentBias + 1;
  const int below = int(thread.template load<1>(largest).v[0] + of_mask) - 2 * kExponentBias + 1;
  int contributions = 0;  // log2 of their number, rounded up
  while ((int64_t(1) << contributions) < a.out_height * a.out_width * a.kernel_h * a.kernel_w) ++contributions;
  const int spare = 62 - contributions, exponent = spare - (below < kMost ? below : kMost);
  const int first = exponent < kLimit ? exponent : kLimit;  // smaller contributions round to 0, below the precision of float
  return {first, first + spare};
}

// A contribution that is not finite sets the result to NaN, independent of the order.
template <class T>
struct FixedSum {
  using A = typename SumOf<T>::type;
  long long* sums;
  long long* second_sums;  // double only
  T* result;
  A scale, inverse, second_scale;

  template <class Thread>
  DKIC_DEVICE void add(const Thread& thread, int64_t at, A value) const {
    if (!is_finite(value)) {
      thread.template store<1>(result + at, Pack<T, 1>{{T(NAN)}});
      return;
    }
    if constexpr (sizeof(T) == 8) {
      const auto rounded = static_cast<long long>(llrint(value * scale));
      thread.atomic_add(sums + at, rounded);
      thread.atomic_add(second_sums + at, static_cast<long long>(llrint((value - A(rounded) * inverse) * second_scale)));
    } else {
      thread.atomic_add(sums + at, static_cast<long long>(llrintf(value * scale)));
    }
  }
};

// Arguments of the kernels below. sums (for double, all first sums before all second sums) and grad_x are contiguous NHWC,
// initialized to 0; largest: the magnitudes of grad_y and, if present, of mask.
template <class T>
struct FixedGradient {
  int64_t count;  // of elements
  long long* sums;
  T* grad_x;
  const unsigned* largest;
};

template <class T, class Thread>
DKIC_DEVICE void ldcn_backward_x_fixed(const Thread& thread, const LdcnArguments& a, const LdcnPlan& plan,
                                       const FixedGradient<T>& to) {
  using A = typename SumOf<T>::type;
  const FixedExponents exponents = fixed_exponents<A>(thread, a, to.largest);
  const A scale = std::ldexp(A(1), exponents.first), inverse = std::ldexp(A(1), -exponents.first);
  const A second_scale = sizeof(A) == 8 ? std::ldexp(A(1), exponents.second) : A(0);
  ldcn_scatter<T>(thread, a, plan, FixedSum<T>{to.sums, to.sums + to.count, to.grad_x, scale, inverse, second_scale});
}

// Converts the sums to grad_x.
template <class T, class Thread>
DKIC_DEVICE void ldcn_round_fixed(const Thread& thread, const LdcnArguments& a, const FixedGradient<T>& to) {
  using A = typename SumOf<T>::type;
  const FixedExponents exponents = fixed_exponents<A>(thread, a, to.largest);
  const A scale = std::ldexp(A(1), -exponents.first);
  for (int64_t i = thread.block() * kLdcnThreads + thread.index(); i < to.count; i += thread.blocks() * kLdcnThreads) {
    if (!is_finite(A(thread.template load_written<1>(to.grad_x + i).v[0]))) continue;
    A sum = A(thread.template load<1>(to.sums + i).v[0]) * scale;
    if constexpr (sizeof(A) == 8) {
      sum += A(thread.template load<1>(to.sums + to.count + i).v[0]) * std::ldexp(A(1), -exponents.second);
    }
    thread.template store<1>(to.grad_x + i, Pack<T, 1>{{T(sum)}});
  }
}

}  // namespace dkic::gpu
