// ldcn's gradient of x by sums of 64-bit integers, which come out the same in whatever order they are made.
//
// Every contribution weight * grad_y is multiplied by a power of two and rounded to an integer. The power is the largest that no
// sum can overflow with: from the largest finite numbers of grad_y and mask, and from how many contributions a sum can have at
// most, one of every tap. That leaves some 40 bits below the largest contribution, where float has 24. Double has 53: there a
// second integer sums what the first leaves over, some 40 bits further down.
#pragma once
#include "cuda/ldcn_cuda_kernels.cuh"

namespace dkic::gpu {

// Magnitudes are exponents: of a number below 2^e, e + kExponentBias; 0 of 0.
constexpr int kExponentBias = 2048;

template <class A>
DKIC_DEVICE bool is_finite(A value) {
  return value - value == 0;
}

// The magnitude of the largest finite number of t, [n, c, h, w], whose sums are A. `largest` begins at 0.
template <class A, class Thread>
DKIC_DEVICE void ldcn_largest(const Thread& thread, const Strided& t, int64_t n, int64_t c, int64_t h, int64_t w,
                              unsigned* largest) {
  A most = 0;
  for (int64_t i = thread.block() * kLdcnThreads + thread.index(); i < n * c * h * w; i += thread.blocks() * kLdcnThreads) {
    // Neighbouring threads read neighbours in memory.
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

// The powers of two that contributions, and what they leave over, are multiplied by, as exponents.
struct FixedExponents {
  int first, second;
};

// largest: the magnitudes of grad_y and, where there is one, of mask.
template <class A, class Thread>
DKIC_DEVICE FixedExponents fixed_exponents(const Thread& thread, const LdcnArguments& a, const unsigned* largest) {
  // The limits of the exponents of finite numbers, and of those whose power of two, and second power, have inverses.
  constexpr int kMost = sizeof(A) == 8 ? 1024 : 128, kLimit = sizeof(A) == 8 ? 900 : 126;
  // One bit is for the rounding of weights and products.
  const unsigned of_mask = a.mask.data ? thread.template load<1>(largest + 1).v[0] : kExponentBias + 1;
  const int below = int(thread.template load<1>(largest).v[0] + of_mask) - 2 * kExponentBias + 1;
  int contributions = 0;  // their number's logarithm, rounded up
  while ((int64_t(1) << contributions) < a.out_height * a.out_width * a.kernel_h * a.kernel_w) ++contributions;
  const int spare = 62 - contributions, exponent = spare - (below < kMost ? below : kMost);
  const int first = exponent < kLimit ? exponent : kLimit;  // what lies below half its inverse is lost to float
  return {first, first + spare};
}

// A contribution that is not finite leaves NaN in the result, in whatever order it comes.
template <class T>
struct FixedSum {
  using A = typename SumOf<T>::type;
  long long* sums;
  long long* second_sums;  // of double
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

// What the kernels below share: sums (for double, first all sums and then all second ones) and grad_x begin at 0, NHWC without
// gaps; largest: the magnitudes of grad_y and, where there is one, of mask.
template <class T>
struct FixedGradient {
  int64_t count;  // of numbers
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

// From the sums to grad_x.
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
