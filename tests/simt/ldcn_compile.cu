// Every ldcn kernel there is to launch, for test_ldcn_compile.py.
#include "ldcn_cuda_fixed.cuh"

namespace dkic::gpu {

#define DKIC_VECTOR(T, V)                                                        \
  template __global__ void ldcn_forward_kernel<T, V>(LdcnArguments, LdcnPlan);   \
  template __global__ void ldcn_backward_samples_kernel<T, V>(LdcnArguments, LdcnPlan);
#define DKIC_TYPE(T)                                                                                   \
  template __global__ void ldcn_backward_x_kernel<T>(LdcnArguments, LdcnPlan, SumOf<T>::type*);        \
  template __global__ void ldcn_backward_x_fixed_kernel<T>(LdcnArguments, LdcnPlan, FixedGradient<T>); \
  template __global__ void ldcn_round_fixed_kernel<T>(LdcnArguments, FixedGradient<T>);
#define DKIC_HALF(T)                \
  DKIC_VECTOR(T, 8)                 \
  DKIC_VECTOR(T, 4)                 \
  DKIC_VECTOR(T, 2)                 \
  DKIC_VECTOR(T, 1)                 \
  DKIC_TYPE(T)                      \
  template __global__ void ldcn_round_kernel<T>(const float*, int64_t, T*);

DKIC_HALF(half)
DKIC_HALF(bfloat16)
DKIC_VECTOR(float, 4)
DKIC_VECTOR(float, 2)
DKIC_VECTOR(float, 1)
DKIC_TYPE(float)
DKIC_VECTOR(double, 2)
DKIC_VECTOR(double, 1)
DKIC_TYPE(double)
template __global__ void ldcn_largest_kernel<float>(Strided, int64_t, int64_t, int64_t, int64_t, unsigned*);
template __global__ void ldcn_largest_kernel<double>(Strided, int64_t, int64_t, int64_t, int64_t, unsigned*);

}  // namespace dkic::gpu
