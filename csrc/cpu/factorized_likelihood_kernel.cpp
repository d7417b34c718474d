// The likelihood of unit bins under a factorized density, and its derivatives. Compiled once per instruction set (DKIC_ISA);
// factorized_likelihood_cpu.cpp chooses one at run time.
#include "cpu/factorized_likelihood_kernel.h"

#include "cpu/gaussian_bits.h"

namespace dkic::DKIC_ISA {
namespace {

constexpr int N = kFactorizedWidth, kHidden = kFactorizedHidden;

template <class T>
struct Density {
  static constexpr int W = kVectorBytes / int(sizeof(T));
  static_assert(kFactorizedVector % W == 0);
  using V = Vector<T, W>;
  using M = Mask<T, W>;

  static inline V exponential(V x) { return GaussianBin<T, W>::exponential(x); }
  static inline V sigmoid(V x) { return T(1) / (T(1) + exponential(-x)); }
  static inline V tanh(V x) { return T(1) - T(2) / (T(1) + exponential(x + x)); }

  // Inputs of each layer and tanh of each hidden layer, for the derivatives.
  struct Trace {
    V x, in[kHidden][N], tanh[kHidden][N];
  };

  // Offset of the parameters of layer k.
  static constexpr int first(int k) { return k == 0 ? 0 : 3 * N + (k - 1) * N * (N + 2); }

  // The logit of the cumulative distribution.
  static inline V logit(const T* p, V x, Trace& trace) {
    trace.x = x;
    for (int k = 0; k < kHidden; ++k) {
      const int inputs = k == 0 ? 1 : N;
      const T *matrix = p + first(k), *bias = matrix + N * inputs, *factor = bias + N;
      for (int j = 0; j < N; ++j) {
        V z = V{} + bias[j];
        for (int i = 0; i < inputs; ++i) z += matrix[j * inputs + i] * (k == 0 ? x : trace.in[k - 1][i]);
        trace.tanh[k][j] = tanh(z);
        trace.in[k][j] = z + factor[j] * trace.tanh[k][j];
      }
    }
    const T* matrix = p + first(kHidden);
    V z = V{} + matrix[N];
    for (int i = 0; i < N; ++i) z += matrix[i] * trace.in[kHidden - 1][i];
    return z;
  }

  // Adds the derivatives of g * logit with respect to the parameters to `sums`; returns the derivative with respect to x.
  static inline V logit_backward(const T* p, const Trace& trace, V g, V* sums) {
    const T* matrix = p + first(kHidden);
    V* sum = sums + first(kHidden);
    V d[N];
    for (int i = 0; i < N; ++i) {
      sum[i] += g * trace.in[kHidden - 1][i];
      d[i] = g * matrix[i];
    }
    sum[N] += g;
    V grad_x{};
    for (int k = kHidden - 1; k >= 0; --k) {
      const int inputs = k == 0 ? 1 : N;
      matrix = p + first(k), sum = sums + first(k);
      const T* factor = matrix + N * inputs + N;
      V below[N]{};
      for (int j = 0; j < N; ++j) {
        const V t = trace.tanh[k][j], dz = d[j] * (T(1) + factor[j] * (T(1) - t * t));
        sum[N * inputs + N + j] += d[j] * t;
        sum[N * inputs + j] += dz;
        for (int i = 0; i < inputs; ++i) {
          sum[j * inputs + i] += dz * (k == 0 ? trace.x : trace.in[k - 1][i]);
          below[i] += dz * matrix[j * inputs + i];
        }
      }
      grad_x = below[0];
      for (int i = 0; i < N; ++i) d[i] = below[i];
    }
    return grad_x;
  }

  // The two sigmoids of a bin, both on the side where they are small, so that their difference does not cancel.
  struct Bin {
    V upper, lower, sign;
    V likelihood() const { return (upper - lower) * sign; }
  };
  static inline Bin bin(V upper, V lower) {
    const V one = V{} + T(1), sign = M::less(V{}, upper + lower).choose(-one, one);
    return {sigmoid(sign * upper), sigmoid(sign * lower), sign};
  }

  static void forward(const T* p, const T* x, int64_t count, T likelihood_min, T* likelihood) {
    const V least = V{} + likelihood_min;
    for (int64_t i = 0; i < count; i += W) {
      Trace trace;
      const V value = load<W>(x + i), upper = logit(p, value + T(0.5), trace), lower = logit(p, value - T(0.5), trace);
      const V result = bin(upper, lower).likelihood();
      store<W>(likelihood + i, M::less(result, least).choose(least, result));  // propagates NaN
    }
  }

  static void backward(const T* p, const T* x, const T* likelihood, const T* grad, int64_t count, T likelihood_min, T* grad_x,
                       double* grad_parameters) {
    const V least = V{} + likelihood_min, zero{};
    V sums[kFactorizedParameters]{};
    for (int64_t i = 0; i < count; i += W) {
      Trace above, below;
      const V value = load<W>(x + i), upper = logit(p, value + T(0.5), above), lower = logit(p, value - T(0.5), below);
      const Bin b = bin(upper, lower);
      // At the bound, the gradient passes only if a descent step would increase the likelihood.
      V g = load<W>(grad + i);
      g = (load<W>(likelihood + i) <= least) & (g > zero) ? zero : g;
      const V of_upper = g * b.upper * (T(1) - b.upper), of_lower = -g * b.lower * (T(1) - b.lower);
      store<W>(grad_x + i, logit_backward(p, above, of_upper, sums) + logit_backward(p, below, of_lower, sums));
    }
    for (int k = 0; k < kFactorizedParameters; ++k) {
      grad_parameters[k] = 0;
      for (int lane = 0; lane < W; ++lane) grad_parameters[k] += double(sums[k][lane]);
    }
  }
};

}  // namespace

extern const FactorizedLikelihoodKernel factorized_likelihood_kernel = {Density<float>::forward, Density<double>::forward,
                                                                        Density<float>::backward, Density<double>::backward};

}  // namespace dkic::DKIC_ISA
