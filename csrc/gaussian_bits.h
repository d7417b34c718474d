// Bits of a unit bin under a Gaussian, and their derivatives: -log2 P, P = Phi((v + 1/2) / s) - Phi((v - 1/2) / s).
//
// Torch-free and vectorised. There are three ways to work a lane out; a vector takes those that its lanes need, and each lane the
// one that is exact there. With a = |v|, u = a / s, h = 1 / (2 s), the bin is [x, y] = [u - h, u + h]; phi is the density and
// M = (1 - Phi) / phi Mills' ratio:
//
//   tail    x >= 0          P = phi(x) (M(x) - e^(-2 u h) M(y)), so that ln P = -x^2/2 + ..., however far out
//   centre  x < 0           P = 1 - phi(x) (M(-x) + e^(-2 u h) M(y)), through log1p: exact where P is nearly 1
//   narrow  h and u h small P = 2 h phi(u) (1 + (u^2 - 1) h^2/6 + ...), where the tail's difference would cancel
//
// In float all of it stays within 8e-7 (relative for the bits, times |g| + 1/s for a derivative g), in double within 1e-14.
#pragma once
#include "simd.h"

namespace dkic::DKIC_ISA {

template <class T>
struct GaussianFit;

// Polynomials, lowest power first. mills: (z + 4) M(z) in w = (z - 4) / (z + 4), on all of z >= 0; exponential: (e^r - 1 - r) /
// r^2 on |r| <= ln(2) / 2. logarithm: (ln(1 + f) - f + f^2/2) / f^3 where 1 + f is between the roots of 1/2 and 2. All are
// Chebyshev series, cut.
template <>
struct GaussianFit<float> {
  static constexpr int kMantissa = 23;
  static constexpr IntOf<float>::type kHead = ~0xfff;  // keeps 12 bits: products of two such heads are exact
  static constexpr IntOf<float>::type kRootHalf = 0x3f3504f3;
  static constexpr float kRound = 0x1.8p23f, kLeastExponent = -80;
  static constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  static constexpr int kSeries = 4;
  static constexpr float mills[] = {1.893219055f,    -1.523770314f,    0.9704099614f,   -0.4675531274f,   0.1513885563f,
                                    -0.01883037159f, -0.008713460733f, 0.003919832456f, 0.0003241714095f, -0.0003943441879f};
  static constexpr float exponential[] = {0.5000000014f, 0.1666657336f, 0.04166645678f, 0.008363776467f, 0.001393454452f};
  static constexpr float logarithm[] = {0.3333332856f, -0.2500029861f, 0.200014781f, -0.1664212806f,
                                        0.1420180616f, -0.1297352998f, 0.127159354f, -0.08101671582f};
};

template <>
struct GaussianFit<double> {
  static constexpr int kMantissa = 52;
  static constexpr IntOf<double>::type kHead = ~0x7ffffff;  // 26 bits
  static constexpr IntOf<double>::type kRootHalf = 0x3fe6a09e667f3bcd;
  static constexpr double kRound = 0x1.8p52, kLeastExponent = -700;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr int kSeries = 9;
  static constexpr double mills[] = {
      1.89321906330848526,     -1.52377091081998509,    0.970409554867617658,   -0.467540962998187209,   0.151391762311048338,
      -0.0189004508654876507,  -0.00872229524821574951, 0.00408785572651232705, 0.000334244365073039038, -0.000579269606700228909,
      -4.78183533988811331e-6, 8.80969612696828336e-5,  1.79124399651756195e-6, -1.48464944524615198e-5, -1.56653414025261769e-6,
      2.57426926709369324e-6,  6.63594074891707453e-7,  -4.0665602237973617e-7, -1.97485120846329617e-7, 4.90544882088000042e-8,
      4.02766827992112794e-8,  -3.20170274031278694e-9, -4.23316136283530521e-9};
  static constexpr double exponential[] = {0.5,
                                           0.166666666666666714,
                                           0.0416666666666666778,
                                           0.00833333333332554408,
                                           0.00138888888888782683,
                                           0.000198412698768661758,
                                           2.48015873385668207e-5,
                                           2.75572528315354186e-6,
                                           2.75572610279678502e-7,
                                           2.5106275452329115e-8,
                                           2.09189622869788227e-9};
  static constexpr double logarithm[] = {
      0.333333333333333336,   -0.250000000000000416,  0.199999999999996255,   -0.166666666666412623,  0.142857142858037482,
      -0.125000000045977988,  0.111111111050487899,   -0.09999999619405885,   0.0909090907842007702,  -0.0833335037475112781,
      0.0769232523136170062,  -0.0714241577667420106, 0.0666584120571688431,  -0.0625660350374677158, 0.05900373216362723,
      -0.0550410948390593441, 0.0505580943779026282,  -0.0511113131725444388, 0.0592919416188954111,  -0.0547956274552156868,
      0.0239120176329894483};
};

// Odd powers apart from even ones: two chains of operations in the place of one twice as long. It is the length of its chains that
// a vector's time goes with here, not the number of operations.
template <int N, class T, class V>
inline V polynomial(const T (&c)[N], V x) {
  if constexpr (N <= 3) {
    V sum = V{} + c[N - 1];
    for (int i = N - 2; i >= 0; --i) sum = sum * x + c[i];
    return sum;
  } else {
    const V square = x * x;
    V high = V{} + c[N - 1], low = V{} + c[N - 2];  // of powers N - 1 and N - 2
#pragma GCC unroll 32
    for (int i = N - 3; i > 0; i -= 2) high = high * square + c[i], low = low * square + c[i - 1];
    if constexpr (N % 2) return low * x + (high * square + c[0]);
    else return high * x + low;
  }
}

constexpr double factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }

// Taylor coefficients, to the power N: of x^i y^j in the mean over t = 0 ... 1 of cosh(sqrt(x) t) e^(y t^2), and of
// cosh(sqrt(x)), sinh(sqrt(x)) / sqrt(x) and e^y.
template <class T, int N>
struct Taylor {
  T mean[N + 1][N + 1], cosine[N + 1], sine[N + 1], exponential[N + 2];
  constexpr Taylor() : mean{}, cosine{}, sine{}, exponential{} {
    for (int i = 0; i <= N; ++i) {
      for (int j = 0; i + j <= N; ++j) mean[i][j] = T(1 / (factorial(2 * i) * factorial(j) * (2 * (i + j) + 1)));
      cosine[i] = T(1 / factorial(2 * i)), sine[i] = T(1 / factorial(2 * i + 1));
    }
    for (int j = 0; j < N + 2; ++j) exponential[j] = T(1 / factorial(j));
  }
};

template <class T, int W>
struct GaussianBits {
  using Fit = GaussianFit<T>;
  using V = Vector<T, W>;
  using VI = Vector<typename IntOf<T>::type, W>;
  using M = Mask<T, W>;
  static constexpr int kSeries = Fit::kSeries;
  static constexpr Taylor<T, kSeries> kTaylor{};

  V bits, by_v, by_scale;  // by_*: derivatives, left unset unless wanted

  // s > 0. A NaN of either comes back as NaN.
  template <bool kDerivatives>
  static inline GaussianBits of(V v, V s) {
    const V a = absolute(v), upper = a + T(0.5), lower = a - T(0.5), r = T(1) / s;
    const V u = a * r, h = T(0.5) * r, y = upper * r, p = u * h;
    const V zero{}, one = zero + T(1);
    const M narrow = M::less(h, zero + T(0.45)) & M::less(p, zero + T(0.7)), centre = M::less(lower, zero) & ~narrow;

    V x{}, square_high{}, square_low{};  // -x^2/2 in two parts
    V fall{}, tail{}, density{}, outside{};
    if ((~narrow).any()) {
      // x, with half as many bits again: where P is nearly 1 its complement goes with e^(-x^2/2), and x^2/2 comes to 10 and more.
      const V near_x = lower * r, lower_rest = a - (lower + T(0.5));
      if constexpr (kFused) {
        const V x_rest = (fused<T, W>(-near_x, s, lower) + lower_rest) * r, half_x = T(-0.5) * near_x;
        x = near_x + x_rest;
        square_high = half_x * near_x;
        square_low = fused<T, W>(half_x, near_x, -square_high) - x_rest * (near_x + T(0.5) * x_rest);
      } else {
        const V x_head = head(near_x), s_head = head(s);
        const V x_rest = (((lower - x_head * s_head) - x_head * (s - s_head)) + lower_rest) * r;
        x = x_head + x_rest;
        square_high = T(-0.5) * x_head * x_head, square_low = -x_rest * (x_head + T(0.5) * x_rest);
      }
      // Where v is 0, as is most of a rounded latent, phi(y) / phi(x) is 1 and one exponential serves.
      const M at_zero = centre & M::equal(p, zero), beside = centre & ~at_zero;
      const V power = exponential(at_zero.choose(square_high, T(-2) * p), at_zero.choose(square_low, zero));
      fall = at_zero.choose(one, power);  // phi(y) / phi(x)
      V mills_x, mills_y;
      mills(absolute(near_x), y, mills_x, mills_y);
      tail = mills_x - fall * mills_y;
      if (centre.any()) {
        constexpr T kPhi0 = T(0.39894228040143267794);
        density = kPhi0 * (beside.any() ? at_zero.choose(power, exponential(square_high, square_low)) : power);
        outside = density * (mills_x + fall * mills_y);  // 1 - P
      }
    }

    // P / (2 h phi(u)) is the mean over w = 0 ... h of cosh(u w) e^(-w^2/2), here in powers of (u h)^2 and -h^2/2.
    const V square = p * p, half = T(-0.5) * h * h;
    V narrow_sum{};
    if (narrow.any()) {
#pragma GCC unroll 32
      for (int i = kSeries; i >= 0; --i) {
        V coefficient = V{} + kTaylor.mean[i][kSeries - i];
#pragma GCC unroll 32
        for (int j = kSeries - i - 1; j >= 0; --j) coefficient = coefficient * half + kTaylor.mean[i][j];
        narrow_sum = narrow_sum * square + coefficient;
      }
    }

    // ln P = exponent + ln(factor); they have one sign, or nearly, so little cancels.
    constexpr T kLog2E = T(1.44269504088896340736), kLnPhi0 = T(-0.91893853320467274178);
    V exponent = square_high + (square_low + kLnPhi0), factor = tail;
    exponent = centre.choose(zero, narrow.choose(T(-0.5) * u * u + kLnPhi0, exponent));
    factor = centre.choose(one - outside, narrow.choose((h + h) * narrow_sum, factor));
    const Logarithm log = logarithm(factor, centre, outside);
    GaussianBits result;
    result.bits = -((exponent + log.rest) * kLog2E + log.power);
    if constexpr (kDerivatives) {
      const V above = T(2) * kLog2E * centre.choose(density, one) * r;
      const V scale = above / factor;
      // Where narrow, phi(x) -+ phi(y) are 2 phi(u) e^(-h^2/2) times the hyperbolic sine and cosine of u h.
      V odd{}, even{};
      if (narrow.any()) {
        const V middle = polynomial(kTaylor.exponential, half);
        odd = p * polynomial(kTaylor.sine, square) * middle, even = polynomial(kTaylor.cosine, square) * middle;
      }
      // u + h, not y: another use of that product would change how the bits above are fused, and so their last digit.
      const V slope = narrow.choose(odd, T(0.5) - T(0.5) * fall) * scale;
      result.by_v = M::less(v, zero).choose(-slope, slope);
      result.by_scale = narrow.choose(h * even - u * odd, T(0.5) * ((u + h) * fall - x)) * scale;
    }
    return result;
  }

 private:
  static inline V absolute(V x) { return bit_cast<V>(bit_cast<VI>(x) & ~sign_bit()); }
  static inline V head(V x) { return bit_cast<V>(bit_cast<VI>(x) & Fit::kHead); }
  static inline VI sign_bit() { return bit_cast<VI>(-V{}); }

  // M(z) for two z >= 0 at the price of one division, which costs as much as a whole polynomial; relative error 3e-8 in float before
  // rounding, 1e-15 in double.
  static inline void mills(V z0, V z1, V& m0, V& m1) {
    const V far0 = z0 + T(4), far1 = z1 + T(4), inverse = T(1) / (far0 * far1);
    const V inverse0 = inverse * far1, inverse1 = inverse * far0;
    m0 = polynomial(Fit::mills, (z0 - T(4)) * inverse0) * inverse0;
    m1 = polynomial(Fit::mills, (z1 - T(4)) * inverse1) * inverse1;
  }

  // e^(high + low), |low| much below |high|; at least e^kLeastExponent, so that 2^k below stays a normal number.
  static inline V exponential(V high, V low) {
    const V bound = V{} + Fit::kLeastExponent;
    const M least = M::less(high, bound);
    high = least.choose(bound, high);
    low = least.choose(V{}, low);
    const V shifted = high * T(1.44269504088896340736) + Fit::kRound, k = shifted - Fit::kRound;
    const V f = (high - k * Fit::kLn2High) + (low - k * Fit::kLn2Low);
    const V e = T(1) + (f + f * f * polynomial(Fit::exponential, f));
    return bit_cast<V>(bit_cast<VI>(e) + (bit_cast<VI>(shifted) << Fit::kMantissa));
  }

  // x = 2^power e^rest; where x is near 1 and `given`, of 1 - complement.
  struct Logarithm {
    V power, rest;
  };
  static inline Logarithm logarithm(V x, M given, V complement) {
    const VI k = (bit_cast<VI>(x) - Fit::kRootHalf) >> Fit::kMantissa;
    V f = bit_cast<V>(bit_cast<VI>(x) - (k << Fit::kMantissa)) - T(1);
    const V power = __builtin_convertvector(k, V);
    f = (given & M::equal(power, V{})).choose(-complement, f);
    return {power, f + f * f * (f * polynomial(Fit::logarithm, f) - T(0.5))};
  }
};

}  // namespace dkic::DKIC_ISA
