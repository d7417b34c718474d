// Likelihood of a unit bin under a Gaussian, P = Phi((v + 1/2) / s) - Phi((v - 1/2) / s), or its bits, -log2 P; and derivatives.
//
// Torch-free and vectorized. There are two formulas, each accurate on its own part of (v, s). With a = |v|, u = a / s,
// h = 1 / (2 s), the bin is [x, y] = [u - h, u + h]; phi is the density and M = (1 - Phi) / phi Mills' ratio:
//
//   narrow  h and u h small  P = 2 h phi(u) e^Q, Q a series in (u h)^2 and h^2, where a difference would cancel
//   wide    the rest; x < 0:  P = 1 - phi(x) (M(-x) + e^(-2 u h) M(y)), through log1p: exact where P is nearly 1
//                     x >= 0: P = phi(x) (M(x) - e^(-2 u h) M(y)), so that ln P = -x^2/2 + ..., however far out
//
// Errors of bits are at most 8e-7 in float and 1e-14 in double (relative for the bits, times |g| + 1/s for a derivative g). Where
// x > kFar, -ln P is x^2/2. Errors of likelihoods are at most 5e-7 and 1e-15 (relative, and times |g| + P/s for a derivative).
//
// Limits: s = inf gives infinite bits and derivatives of 0; v = +-inf gives infinite bits, by_v = +-inf and by_scale = -inf.
// Likelihoods below the normal numbers are 0, with derivatives of 0. NaN in v or s gives NaN, and so do both infinite.
#pragma once
#include "cpu/mask.h"

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
  static constexpr float kRound = 0x1.8p23f + 127;  // and the bias of an exponent
  static constexpr float kLeastExponent = -87, kLeastNormal = 0x1p-126f, kFar = 0x1p20f;
  static constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
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
  static constexpr double kRound = 0x1.8p52 + 1023;
  static constexpr double kLeastExponent = -708, kLeastNormal = 0x1p-1022, kFar = 0x1p30;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
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

// For narrow bins, in powers of q = (u h)^2 (rows) and t = h^2 on q <= 0.49, t <= 0.2025: Q, 2 dQ/dq and 4 q dQ/dq + 2 t dQ/dt;
// in float with the least largest error (9e-8, 7e-9, 2e-8), in double Taylor's.
template <class T>
struct NarrowFit;

template <>
struct NarrowFit<float> {
  float log[4][4] = {{0, -0.1666677892f, 0.01111172233f, -0.000334505603f},
                     {0.1666643023f, -0.02217550762f, 0.0009470646619f},
                     {-0.005537123885f, 0.001917383983f},
                     {0.0003124537179f}};
  float by_v[4][4] = {{0.3333329856f, -0.04443873465f, 0.00209679408f, 0.0001438970066f},
                      {-0.02221622691f, 0.008397181518f, -0.001091032755f},
                      {0.002090270165f, -0.001069375663f},
                      {-0.0001710547804f}};
  float by_scale[5][5] = {{0, -0.3333337009f, 0.04444365203f, -0.002085415181f, -0.0002183226024f},
                          {0.6666657329f, -0.1333069503f, 0.008355374448f, 0.0007302841987f},
                          {-0.04443245754f, 0.02096570097f, -0.003210160881f},
                          {0.004184208345f, -0.002481551841f},
                          {-0.0003466035996f}};
};

constexpr double factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }

// Q is the logarithm of S, the mean over w = 0 ... 1 of cosh(sqrt(q) w) e^(-t w^2/2).
template <>
struct NarrowFit<double> {
  static constexpr int N = 12;
  double log[N][N], by_v[N][N], by_scale[N][N];
  constexpr NarrowFit() : log{}, by_v{}, by_scale{} {
    double power[N + 1][N + 1]{}, full[N + 1][N + 1]{};
    for (int i = 0; i <= N; ++i)
      for (int j = 0; i + j <= N; ++j) {
        double half = 1;
        for (int k = 0; k < j; ++k) half *= -0.5;
        power[i][j] = half / (factorial(2 * i) * factorial(j) * (2 * (i + j) + 1));
        // From S d(ln S) = dS, along q or, where there is no q, along t.
        double rest = (i ? i : j) * power[i][j];
        for (int k = 0; k <= i; ++k)
          for (int l = 0; l <= j; ++l)
            if (k < i || l < j) rest -= (i ? k : l) * full[k][l] * power[i - k][j - l];
        full[i][j] = i || j ? rest / (i ? i : j) : 0;
      }
    for (int i = 0; i < N; ++i)
      for (int j = 0; i + j < N; ++j) {
        log[i][j] = full[i][j];
        by_v[i][j] = 2 * (i + 1) * full[i + 1][j];
        by_scale[i][j] = (4 * i + 2 * j) * full[i][j];
      }
  }
};

// Odd and even powers separately: two chains of dependent operations instead of one twice as long. The length of the chains
// limits the speed here, not the number of operations.
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
    if constexpr (N % 2)
      return low * x + (high * square + c[0]);
    else
      return high * x + low;
  }
}

// The sum of c[i][j] x^i y^j over i + j < N.
template <int N, class T, class V>
inline V triangle(const T (&c)[N][N], V x, V y) {
  V sum{};
#pragma GCC unroll 32
  for (int i = N - 1; i >= 0; --i) {
    V row = V{} + c[i][N - 1 - i];
#pragma GCC unroll 32
    for (int j = N - 2 - i; j >= 0; --j) row = row * y + c[i][j];
    sum = i == N - 1 ? row : sum * x + row;
  }
  return sum;
}

enum class BinOutput { bits, likelihood };

template <class T, int W>
struct GaussianBin {
  using Fit = GaussianFit<T>;
  using V = Vector<T, W>;
  using VI = Vector<typename IntOf<T>::type, W>;
  using M = Mask<T, W>;
  static constexpr NarrowFit<T> kNarrow{};

  V value, by_v, by_scale;  // by_*: derivatives, left unset unless wanted

  static inline M is_narrow(V v, V s) {
    return M::less(V{} + T(1 / 0.9), s) & M::less(absolute(v), T(1.4) * s * s);  // h < 0.45, u h < 0.7
  }

  // e^x, at most e^(-kLeastExponent); 0 below e^kLeastExponent.
  static inline V exponential(V x) {
    const V most = V{} - Fit::kLeastExponent;
    return exponential(M::less(most, x).choose(most, x), V{});
  }

  // The two formulas. s > 0; NaN and an infinite v use `wide`, an infinite s with a finite v uses `narrow`.
  template <BinOutput kOutput, bool kDerivatives>
  static inline GaussianBin narrow(V v, V s) {
    const V a = absolute(v), r = T(1) / s, u = a * r, h = T(0.5) * r, p = u * h, q = p * p, t = h * h, square = u * u;
    const V series = triangle(kNarrow.log, q, t);
    GaussianBin result;
    V weight;  // of the derivatives
    if constexpr (kOutput == BinOutput::bits) {
      const Logarithm log = logarithm(s);
      result.value = (T(0.5) * square + (log.rest - kLnPhi0 - series)) * kLog2E + log.power;
      weight = -kLog2E * r;
    } else {
      const M finite = M::less(s, V{} + T(__builtin_inf()));  // infinity times 0 is NaN
      const Square exact = half_square(a, V{}, finite.choose(s, V{}), r);
      result.value = kPhi0 * r * exponential(exact.high, exact.low + series);
      weight = result.value * r;
    }
    if constexpr (kDerivatives) {
      result.by_v = with_sign(v, (h * p * triangle(kNarrow.by_v, q, t) - u) * weight);
      result.by_scale = (square - T(1) - triangle(kNarrow.by_scale, q, t)) * weight;
    }
    if constexpr (kOutput == BinOutput::likelihood) result.template flush<kDerivatives>();
    return result;
  }

  template <BinOutput kOutput, bool kDerivatives>
  static inline GaussianBin wide(V v, V s) {
    const V a = absolute(v), upper = a + T(0.5), lower = a - T(0.5), r = T(1) / s;
    const V u = a * r, h = T(0.5) * r, x = lower * r;
    const V zero{}, one = zero + T(1);
    const M center = M::less(lower, zero), at_zero = M::equal(v, zero);
    const Square square = half_square(lower, a - (lower + T(0.5)), s, r);
    V mills_x, mills_y;
    if (at_zero.all()) {
      mills(upper, upper, s, mills_x, mills_y);
    } else {
      mills(absolute(lower), upper, s, mills_x, mills_y);
    }

    GaussianBin result;
    V fall, weight;  // phi(y) / phi(x); of the derivatives
    if constexpr (kOutput == BinOutput::bits) {
      // Where v is 0, as for most of a rounded latent, phi(y) / phi(x) is 1 and one exponential is enough.
      const M beside = center & ~at_zero;
      const V power = exponential(at_zero.choose(square.high, T(-2) * u * h), at_zero.choose(square.low, zero));
      fall = at_zero.choose(one, power);
      const V tail = mills_x - fall * mills_y;
      V density{}, outside{};  // the latter 1 - P
      if (center.any()) {
        density = kPhi0 * (beside.any() ? at_zero.choose(power, exponential(square.high, square.low)) : power);
        outside = density * (mills_x + fall * mills_y);
      }
      // ln P = exponent + ln(factor); they have one sign, or nearly, so little cancels.
      const V exponent = center.choose(zero, square.high + (square.low + kLnPhi0)), factor = center.choose(one - outside, tail);
      const Logarithm log = logarithm(factor, center, outside);
      result.value = (-exponent - log.rest) * kLog2E - log.power;
      weight = -kLog2E * center.choose(density, one) * r / factor;
    } else {
      fall = at_zero.all() ? one : exponential(T(-2) * u * h, zero);
      const V density = kPhi0 * exponential(square.high, square.low);
      const V tail = with_sign(lower, mills_x) - fall * mills_y;
      result.value = center.choose(one, zero) + density * tail;
      weight = density * r;
    }
    if constexpr (kDerivatives) {
      result.by_v = with_sign(v, (fall - one) * weight);
      result.by_scale = (square.root - (u + h) * fall) * weight;
    }
    const M far = M::less(zero + Fit::kFar, x);  // the square's parts and mills' products overflow
    if constexpr (kOutput == BinOutput::likelihood) {
      result.value = far.choose(zero, result.value);
      result.template flush<kDerivatives>();
    } else if (far.any()) {
      const V slope = kLog2E * x * r;
      result.value = far.choose(T(0.5) * kLog2E * x * x, result.value);
      if constexpr (kDerivatives) {
        result.by_v = far.choose(with_sign(v, slope), result.by_v);
        result.by_scale = far.choose(-x * slope, result.by_scale);
      }
    }
    return result;
  }

 private:
  static constexpr T kLog2E = T(1.44269504088896340736), kLnPhi0 = T(-0.91893853320467274178), kPhi0 = T(0.39894228040143267794);

  // Of a likelihood: 0 below the normal numbers.
  template <bool kDerivatives>
  void flush() {
    const V zero{};
    const M impossible = M::less(value, zero + Fit::kLeastNormal);
    value = impossible.choose(zero, value);
    if constexpr (kDerivatives) {
      by_v = impossible.choose(zero, by_v);
      by_scale = impossible.choose(zero, by_scale);
    }
  }

  static inline V absolute(V x) { return bit_cast<V>(bit_cast<VI>(x) & ~sign_bit()); }
  static inline V head(V x) { return bit_cast<V>(bit_cast<VI>(x) & Fit::kHead); }
  static inline VI sign_bit() { return bit_cast<VI>(-V{}); }
  static inline V with_sign(V v, V x) { return bit_cast<V>(bit_cast<VI>(x) ^ (bit_cast<VI>(v) & sign_bit())); }

  // x = (lower + rest) / s with half as many bits again, and -x^2/2 in two parts: where P is nearly 1 its complement goes with
  // e^(-x^2/2), and x^2/2 comes to 10 and more.
  struct Square {
    V root, high, low;
  };
  static inline Square half_square(V lower, V lower_rest, V s, V r) {
    const V near_x = lower * r;
    if constexpr (kFused) {
      const V x_rest = (fused<T, W>(-near_x, s, lower) + lower_rest) * r, half_x = T(-0.5) * near_x, high = half_x * near_x;
      return {near_x + x_rest, high, fused<T, W>(half_x, near_x, -high) - x_rest * near_x};
    } else {
      const V x_head = head(near_x), s_head = head(s);
      const V x_rest = (((lower - x_head * s_head) - x_head * (s - s_head)) + lower_rest) * r;
      return {x_head + x_rest, T(-0.5) * x_head * x_head, -x_rest * (x_head + T(0.5) * x_rest)};
    }
  }

  // M(a0 / s) and M(a1 / s), both a >= 0, with one division, which takes as long as a polynomial and does not wait for that of
  // 1 / s; relative error 3e-8 in float before rounding, 1e-15 in double.
  static inline void mills(V a0, V a1, V s, V& m0, V& m1) {
    const V four = T(4) * s, far0 = a0 + four, far1 = a1 + four, inverse = T(1) / (far0 * far1);
    const V inverse0 = inverse * far1, inverse1 = inverse * far0;
    m0 = polynomial(Fit::mills, (a0 - four) * inverse0) * (s * inverse0);
    m1 = polynomial(Fit::mills, (a1 - four) * inverse1) * (s * inverse1);
  }

  // e^(high + low), |low| much below |high| or 1; 0 below e^kLeastExponent, so that 2^k is a normal number.
  static inline V exponential(V high, V low) {
    const V shifted = high * T(1.44269504088896340736) + Fit::kRound, k = shifted - Fit::kRound;
    const V f = (high - k * Fit::kLn2High) + (low - k * Fit::kLn2Low);
    const V e = T(1) + (f + f * f * polynomial(Fit::exponential, f));
    const V power = bit_cast<V>(bit_cast<VI>(shifted) << Fit::kMantissa);
    return M::less(high, V{} + Fit::kLeastExponent).choose(V{}, e * power);
  }

  // x = 2^power e^rest, power being x itself where that is infinite or NaN; where x is near 1 and `given`, of 1 - complement.
  struct Logarithm {
    V power, rest;
  };
  static inline Logarithm logarithm(V x, M given, V complement) {
    const VI k = binary_exponent(x);
    const V power = power_of(x, k);
    return {power, log_of_1_plus((given & M::equal(power, V{})).choose(-complement, mantissa_above_1(x, k)))};
  }
  static inline Logarithm logarithm(V x) {
    const VI k = binary_exponent(x);
    return {power_of(x, k), log_of_1_plus(mantissa_above_1(x, k))};
  }
  static inline VI binary_exponent(V x) { return (bit_cast<VI>(x) - Fit::kRootHalf) >> Fit::kMantissa; }
  static inline V power_of(V x, VI k) { return M::less(x, V{} + T(__builtin_inf())).choose(__builtin_convertvector(k, V), x); }
  static inline V mantissa_above_1(V x, VI k) { return bit_cast<V>(bit_cast<VI>(x) - (k << Fit::kMantissa)) - T(1); }
  static inline V log_of_1_plus(V f) { return f + f * f * (f * polynomial(Fit::logarithm, f) - T(0.5)); }
};

}  // namespace dkic::DKIC_ISA
