// Tensors as arguments of the torch-free kernels: data, type and strides.
#pragma once
#include <cstdint>

namespace dkic {

enum class Scalar : int { f32, f64, f16, bf16 };

#ifdef __CUDACC__
#define DKIC_HOST_DEVICE __host__ __device__
#else
#define DKIC_HOST_DEVICE
#endif

// Calls f.template operator()<T>() with the C++ type of `type`; the caller names its half types.
template <class Half, class BFloat16, class F>
DKIC_HOST_DEVICE auto with_scalar(Scalar type, const F& f) {
  switch (type) {
    case Scalar::f32:
      return f.template operator()<float>();
    case Scalar::f64:
      return f.template operator()<double>();
    case Scalar::f16:
      return f.template operator()<Half>();
    default:
      return f.template operator()<BFloat16>();
  }
}

// A [batch, channels, height, width] tensor; strides count elements.
struct Strided {
  const void* data;
  Scalar type;
  int64_t n, c, h, w;
};

}  // namespace dkic
