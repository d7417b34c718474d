// Bits of a unit bin under a Gaussian, and their derivatives: -log2 P, P = Phi((v + 1/2) / s) - Phi((v - 1/2) / s).
//
// Torch-free, branch-free and vectorised; every lane is worked out three ways and takes the one that is exact there. With a =
// |v|, u = a / s, h = 1 / (2 s), the bin is [x, y] = [u - h, u + h]; phi is the density and M = (1 - Phi) / phi Mills' ratio:
//
//   tail    x >= 0          P = phi(x) (M(x) - e^(-2 u h) M(y)), so that ln P = -x^2/2 + ..., however far out
//   centre  x < 0           P = 1 - phi(x) (M(-x) + e^(-2 u h) M(y)), through log1p: exact where P is nearly 1
//   narrow  h and u h small P = 2 h phi(u) (1 + (u^2 - 1) h^2/6 + ...), where the tail's difference would cancel
//
// In float all of it stays within 5e-7 (relative for the bits, times |g| + 1/s for a derivative g), in double within 1e-14.
#pragma once
#include "simd.h"

namespace dkic::DKIC_ISA {

template <class T>
struct GaussianFit;

// Polynomials, lowest power first. mills: (z + 4) M(z) in w = (z - 4) / (z + 4), on all of z >= 0; exponential: (e^r - 1 - r) /
// r^2 on |r| <= ln(2) / 2; Chebyshev series, cut. logarithm: fdlibm's for ln((1 + t) / (1 - t)) = 2 t + t^3 (...), in t^2.
template <>
struct GaussianFit<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr Int kHead = ~0xfff;  // keeps 12 bits: products of two such heads are exact
  static constexpr Int kRootHalf = 0x3f3504f3;
  static constexpr float kRound = 0x1.8p23f, kLeastExponent = -80;
  static constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;
  static constexpr int kSeries = 9;
  static constexpr float mills[] = {1.893219064f,     -1.523770884f,     0.9704095376f,    -0.4675417197f,
                                    0.1513919463f,    -0.01889425496f,   -0.008722952689f, 0.004065851591f,
                                    0.0003350193591f, -0.0005403633229f, -4.339179843e-6f, 5.309786728e-5f};
  static constexpr float exponential[] = {0.5000000014f, 0.1666657336f, 0.04166645678f, 0.008363776467f, 0.001393454452f};
  static constexpr float logarithm[] = {0.66666662693f, 0.40000972152f, 0.28498786688f, 0.24279078841f};
};

template <>
struct GaussianFit<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr Int kHead = ~0x7ffffff;  // 26 bits
  static constexpr Int kRootHalf = 0x3fe6a09e667f3bcd;
  static constexpr double kRound = 0x1.8p52, kLeastExponent = -700;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr int kSeries = 19;
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
  static constexpr double logarithm[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                                         2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                                         1.479819860511658591e-01};
};

template <int N, class T, class V>
inline V polynomial(const T (&c)[N], V x) {
  V sum = V{} + c[N - 1];
  if constexpr (N <= 12) {
#pragma GCC unroll 32
    for (int i = N - 2; i >= 0; --i) sum = sum * x + c[i];
    return sum;
  } else {  // odd powers apart from even ones: two chains of operations in the place of one twice as long
    static_assert(N % 2 == 1);
    const V square = x * x;
    V odd = V{} + c[N - 2];
#pragma GCC unroll 32
    for (int i = N - 3; i > 0; i -= 2) sum = sum * square + c[i], odd = odd * square + c[i - 1];
    return odd * x + (sum * square + c[0]);
  }
}

template <class T, int W>
struct GaussianBits {
  using Fit = GaussianFit<T>;
  using V = Vector<T, W>;
  using VI = Vector<typename Fit::Int, W>;

  V bits, by_v, by_scale;  // by_*: derivatives, left unset unless wanted

  // s > 0. A NaN of either comes back as NaN.
  template <bool kDerivatives>
  static inline GaussianBits of(V v, V s) {
    const V a = absolute(v), upper = a + T(0.5), lower = a - T(0.5), r = T(1) / s;
    const V u = a * r, h = T(0.5) * r, y = upper * r;
    // x, with half as many bits again: where P is nearly 1 its complement goes with e^(-x^2/2), and x^2/2 comes to 10 and more.
    const V x_head = head(lower * r), s_head = head(s), lower_rest = a - (lower + T(0.5));
    const V x_rest = (((lower - x_head * s_head) - x_head * (s - s_head)) + lower_rest) * r;
    const V x = x_head + x_rest;
    const V square_high = T(-0.5) * x_head * x_head, square_low = -x_rest * (x_head + T(0.5) * x_rest);  // sum: -x^2/2

    const V p = u * h, c = h * h;
    const VI narrow = (h < T(0.45)) & (p < T(0.35)), centre = (x < T(0)) & ~narrow;
    const V fall = exponential(T(-2) * p, V{});  // phi(y) / phi(x)
    const V mills_x = mills(absolute(x)), mills_y = mills(y);

    constexpr T kPhi0 = T(0.39894228040143267794);
    const V density = kPhi0 * exponential(centre ? square_high : V{}, centre ? square_low : V{});
    const V outside = density * (mills_x + fall * mills_y);  // 1 - P at the centre
    const V tail = mills_x - fall * mills_y;

    // g_j = He_j(u) h^j / j! are the Taylor terms of phi over the bin: the even ones, over j + 1, sum to P / (2 h phi(u)); the
    // odd ones to half the difference of phi at the two ends, the even ones to half the sum.
    V before = V{} + T(1), g = p, even = before, odd = p, narrow_sum = before;
#pragma GCC unroll 32  // so that the divisions are done at compile time
    for (int j = 2; j <= Fit::kSeries; ++j) {
      const V next = p * (T(1) / T(j)) * g - c * (T(1) / T(j)) * before;
      before = g, g = next;
      if (j % 2) {
        odd += g;
      } else {
        even += g, narrow_sum += g * (T(1) / T(j + 1));
      }
    }

    // ln P = exponent + ln(factor); they have one sign, so nothing cancels.
    V exponent = centre ? V{} : square_high + square_low, factor = centre ? T(1) - outside : kPhi0 * tail;
    exponent = narrow ? T(-0.5) * u * u : exponent;
    factor = narrow ? T(2) * kPhi0 * h * narrow_sum : factor;
    constexpr T kLog2E = T(1.44269504088896340736);
    GaussianBits result;
    result.bits = (exponent + logarithm(factor, centre, outside)) * -kLog2E;
    if constexpr (kDerivatives) {
      const V above = centre ? density + density : narrow ? V{} + T(1) : V{} + T(2);
      const V below = centre ? factor : narrow ? h * narrow_sum : tail;
      const V scale = above / below * r * kLog2E;
      // u + h, not y: another use of that product would change how the bits above are fused, and so their last digit.
      const V slope = (narrow ? odd : T(0.5) - T(0.5) * fall) * scale;
      result.by_v = v < T(0) ? -slope : slope;
      result.by_scale = (narrow ? h * even - u * odd : T(0.5) * ((u + h) * fall - x)) * scale;
    }
    return result;
  }

 private:
  static inline V absolute(V x) { return bit_cast<V>(bit_cast<VI>(x) & ~sign_bit()); }
  static inline V head(V x) { return bit_cast<V>(bit_cast<VI>(x) & Fit::kHead); }
  static inline VI sign_bit() { return bit_cast<VI>(V{} - T(0)) | bit_cast<VI>(-V{}); }

  // M(z) for z >= 0; relative error 3e-8 in float before rounding, 1e-15 in double.
  static inline V mills(V z) {
    const V inverse = T(1) / (z + T(4));
    return polynomial(Fit::mills, (z - T(4)) * inverse) * inverse;
  }

  // e^(high + low), |low| much below |high|; at least e^kLeastExponent, so that 2^k below stays a normal number.
  static inline V exponential(V high, V low) {
    const VI least = high < Fit::kLeastExponent;
    high = least ? V{} + Fit::kLeastExponent : high;
    low = least ? V{} : low;
    const V shifted = high * T(1.44269504088896340736) + Fit::kRound, k = shifted - Fit::kRound;
    const V f = (high - k * Fit::kLn2High) + (low - k * Fit::kLn2Low);
    const V e = T(1) + (f + f * f * polynomial(Fit::exponential, f));
    return bit_cast<V>(bit_cast<VI>(e) + (bit_cast<VI>(shifted) << Fit::kMantissa));
  }

  // ln x; where x is near 1 and `given`, of 1 - complement.
  static inline V logarithm(V x, VI given, V complement) {
    const VI k = (bit_cast<VI>(x) - Fit::kRootHalf) >> Fit::kMantissa;
    V f = bit_cast<V>(bit_cast<VI>(x) - (k << Fit::kMantissa)) - T(1);
    f = given & (k == 0) ? -complement : f;
    const V t = f / (f + T(2)), square = t * t, half = T(0.5) * f * f;
    const V rest = half - t * (half + square * polynomial(Fit::logarithm, square));
    const V n = __builtin_convertvector(k, V);
    return n * Fit::kLn2High - ((rest - n * Fit::kLn2Low) - f);
  }
};

}  // namespace dkic::DKIC_ISA
