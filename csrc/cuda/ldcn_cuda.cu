// ldcn's CUDA kernels for one type of x, DKIC_SCALAR: f32, f64, f16 or bf16. setup.py compiles this file once per type.
#include "cuda/cuda_launch.cuh"
#include "cuda/ldcn_cuda.h"
#include "cuda/ldcn_cuda_launches.cuh"

namespace dkic::gpu {
namespace {

namespace types {
using f32 = float;
using f64 = double;
using f16 = half;
using bf16 = bfloat16;
}  // namespace types
using T = types::DKIC_SCALAR;

int forward(const LdcnArguments& a, void* stream) {
  CudaLauncher launch(stream);
  launch_ldcn_forward<T>(launch, a);
  return launch.error();
}

int backward_samples(const LdcnArguments& a, void* stream) {
  CudaLauncher launch(stream);
  launch_ldcn_backward_samples<T>(launch, a);
  return launch.error();
}

int backward_x(const LdcnArguments& a, const LdcnSums& sums, void* stream) {
  CudaLauncher launch(stream);
  launch_ldcn_backward_x<T>(launch, a, static_cast<SumOf<T>::type*>(sums.values));
  return launch.error();
}

int backward_x_fixed(const LdcnArguments& a, const LdcnSums& sums, void* stream) {
  CudaLauncher launch(stream);
  launch_ldcn_backward_x_fixed<T>(launch, a, static_cast<long long*>(sums.values), sums.largest);
  return launch.error();
}

}  // namespace

#define DKIC_NAME_OF(scalar) ldcn_cuda_##scalar
#define DKIC_NAME(scalar) DKIC_NAME_OF(scalar)
const LdcnCudaKernel DKIC_NAME(DKIC_SCALAR) = {forward, backward_samples, backward_x, backward_x_fixed};

}  // namespace dkic::gpu
