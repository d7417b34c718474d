// Interface between gaussian_likelihood_cpu.cpp (torch) and gaussian_likelihood_kernel.cpp (compiled once per instruction set,
// torch-free).
#pragma once
#include "cpu/cpu_capability.h"
#include "cpu/traversal.h"

namespace dkic {

// Results lie in the order of the traversal without gaps. "compute type": double where is_double, else float.
struct GaussianLikelihoodArguments {
  Traversal traversal;
  bool is_double, rounded, drawn;
  bool in_order;    // the traversal goes through a sample's elements in their order
  bool likelihood;  // bits are likelihoods, by_v and by_scale the derivatives of these before their bound
  double scale_min, likelihood_min;
  uint64_t seed;
  StridedOperand y, scale, mean, noise;
  int64_t index_stride[kTraversalAxes];  // where drawn: of an element's number in its sample
  void *y_hat, *bits, *by_v, *by_scale;  // y_hat in y's type, the others in the compute type; nullptr: not wanted
  double* sums;                          // of the bits of every chunk; nullptr: not wanted
};

struct GaussianLikelihoodBackwardArguments {
  Traversal traversal;
  bool is_double;
  double scale_min, likelihood_min;
  StridedOperand grad_y_hat, grad_bits, by_v, by_scale, scale, likelihood;  // the last as forward returned it
  void *grad_y, *grad_scale, *grad_mean;                                    // compute type; nullptr: not wanted
};

struct GaussianLikelihoodKernel {
  // Chunks [first, last) of batch * chunks_of_sample(traversal).
  void (*forward)(const GaussianLikelihoodArguments&, int64_t first, int64_t last);
  void (*backward)(const GaussianLikelihoodBackwardArguments&, int64_t first, int64_t last);
};

DKIC_DECLARE_KERNEL(GaussianLikelihoodKernel, gaussian_likelihood_kernel)

}  // namespace dkic
