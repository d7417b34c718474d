// Interface between ldcn_cuda.cpp (torch) and ldcn_cuda.cu (compiled once per type of x, torch-free).
#pragma once
#include "common/ldcn_arguments.h"

namespace dkic::gpu {

// Accumulators of the gradient of x, contiguous NHWC, initialized to 0.
struct LdcnSums {
  void* values;       // float (double for double); or 64-bit integers, two per element for double
  unsigned* largest;  // integers only: two magnitudes
};

// Each function launches its kernels on a stream of the current device and returns CUDA's error code, 0 on success.
struct LdcnCudaKernel {
  int (*forward)(const LdcnArguments&, void* stream);
  // Gradients of offset and mask.
  int (*backward_samples)(const LdcnArguments&, void* stream);
  // Gradient of x. For float and double, the accumulators are grad_x.
  int (*backward_x)(const LdcnArguments&, const LdcnSums&, void* stream);
  // Deterministic gradient of x: integer sums do not depend on the order. grad_x is initialized to 0.
  int (*backward_x_fixed)(const LdcnArguments&, const LdcnSums&, void* stream);
};

extern const LdcnCudaKernel ldcn_cuda_f32, ldcn_cuda_f64, ldcn_cuda_f16, ldcn_cuda_bf16;

}  // namespace dkic::gpu
