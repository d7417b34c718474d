// What ldcn_cuda.cpp (torch) and ldcn_cuda.cu (compiled once per type of x, torch-free) say to each other.
#pragma once
#include "common/ldcn_arguments.h"

namespace dkic::gpu {

// The sums that become the gradient of x, NHWC without gaps; they begin at 0.
struct LdcnSums {
  void* values;       // of float (double for double); or of 64-bit integers, for double twice as many
  unsigned* largest;  // with integers: two numbers
};

// Each queues its kernels on the stream, of the current device, and returns CUDA's error code, 0 where there is none.
struct LdcnCudaKernel {
  int (*forward)(const LdcnArguments&, void* stream);
  // Gradients of offset and mask.
  int (*backward_samples)(const LdcnArguments&, void* stream);
  // Gradient of x. In float and double the sums are grad_x itself.
  int (*backward_x)(const LdcnArguments&, const LdcnSums&, void* stream);
  // The same by sums of integers, which come out the same in any order. grad_x begins at 0 too.
  int (*backward_x_fixed)(const LdcnArguments&, const LdcnSums&, void* stream);
};

extern const LdcnCudaKernel ldcn_cuda_f32, ldcn_cuda_f64, ldcn_cuda_f16, ldcn_cuda_bf16;

}  // namespace dkic::gpu
