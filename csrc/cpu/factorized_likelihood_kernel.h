// Interface between factorized_likelihood_cpu.cpp (torch) and factorized_likelihood_kernel.cpp (compiled once per instruction
// set, torch-free). The density of a channel is a network of four hidden layers of width 3 (Balle et al. 2018, appendix 6.1).
#pragma once
#include <cstdint>

#include "cpu/cpu_capability.h"

namespace dkic {

constexpr int kFactorizedHidden = 4, kFactorizedWidth = 3;

// Parameters of a channel, layer by layer: matrix (outputs x inputs), bias, factors (only of hidden layers).
constexpr int kFactorizedParameters =
    3 * kFactorizedWidth + (kFactorizedHidden - 1) * kFactorizedWidth * (kFactorizedWidth + 2) + kFactorizedWidth + 1;

// Elements of a channel that are computed at once; values are padded with any numbers to a multiple of it.
constexpr int64_t kFactorizedVector = 16;

struct FactorizedLikelihoodKernel {
  // likelihood[i] of x[i], i < count, of T, which is double or float.
  template <class T>
  using Forward = void (*)(const T* parameters, const T* x, int64_t count, T likelihood_min, T* likelihood);
  // grad: gradient of likelihood, 0 in the padding. grad_parameters: of this channel.
  template <class T>
  using Backward = void (*)(const T* parameters, const T* x, const T* likelihood, const T* grad, int64_t count, T likelihood_min,
                            T* grad_x, double* grad_parameters);
  Forward<float> forward_float;
  Forward<double> forward_double;
  Backward<float> backward_float;
  Backward<double> backward_double;
};

DKIC_DECLARE_KERNEL(FactorizedLikelihoodKernel, factorized_likelihood_kernel)

}  // namespace dkic
