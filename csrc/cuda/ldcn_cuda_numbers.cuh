// Type conversions of ldcn's CUDA kernels, for scalars and packs, and typed access to tensors.
#pragma once
#include <type_traits>

#include "common/strided.h"
#include "cuda/host_device.h"

namespace dkic::gpu {

// Half types convert only from and to float.
template <class To, class From>
DKIC_DEVICE To converted(From value) {
  if constexpr (sizeof(To) == 2 || sizeof(From) == 2) {
    return To(float(value));
  } else {
    return To(value);
  }
}

#ifdef __CUDACC__

// Two half values share a register. Converted as a pair, each takes one instruction; unpacking first takes one more.
DKIC_DEVICE Pack<float, 2> pair_to_float(const Pack<half, 2>& pair) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof pair);
  const float2 values = __half22float2(halves);
  return {{values.x, values.y}};
}
DKIC_DEVICE Pack<float, 2> pair_to_float(const Pack<bfloat16, 2>& pair) {
  unsigned word;
  memcpy(&word, &pair, sizeof pair);
  return {{__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000)}};
}
template <class To>
DKIC_DEVICE Pack<To, 2> pair_from_float(float low, float high) {
  Pack<To, 2> pair;
  if constexpr (std::is_same_v<To, half>) {
    const __half2 halves = __floats2half2_rn(low, high);
    memcpy(&pair, &halves, sizeof pair);
  } else {
    const __nv_bfloat162 halves = __floats2bfloat162_rn(low, high);
    memcpy(&pair, &halves, sizeof pair);
  }
  return pair;
}

#else

template <class From>
DKIC_DEVICE Pack<float, 2> pair_to_float(const Pack<From, 2>& pair) {
  return {{float(pair.v[0]), float(pair.v[1])}};
}
template <class To>
DKIC_DEVICE Pack<To, 2> pair_from_float(float low, float high) {
  return {{To(low), To(high)}};
}

#endif

template <class To, class From, int N>
DKIC_DEVICE Pack<To, N> converted(const Pack<From, N>& values) {
  Pack<To, N> to;
  if constexpr (N % 2 == 0 && sizeof(From) == 2 && std::is_same_v<To, float>) {
    for (int i = 0; i < N; i += 2) {
      const Pack<float, 2> pair = pair_to_float(Pack<From, 2>{{values.v[i], values.v[i + 1]}});
      to.v[i] = pair.v[0], to.v[i + 1] = pair.v[1];
    }
  } else if constexpr (N % 2 == 0 && sizeof(To) == 2 && std::is_same_v<From, float>) {
    for (int i = 0; i < N; i += 2) {
      const Pack<To, 2> pair = pair_from_float<To>(values.v[i], values.v[i + 1]);
      to.v[i] = pair.v[0], to.v[i + 1] = pair.v[1];
    }
  } else {
    for (int i = 0; i < N; ++i) to.v[i] = converted<To>(values.v[i]);
  }
  return to;
}

template <class T, int N>
DKIC_DEVICE Pack<T, N> to_pack(const T (&values)[N]) {
  Pack<T, N> pack;
  for (int i = 0; i < N; ++i) pack.v[i] = values[i];
  return pack;
}

// One access of N elements that the kernel never writes.
template <int N, class A, class Thread>
DKIC_DEVICE Pack<A, N> read(const Thread& thread, const Strided& from, int64_t at) {
  return with_scalar<half, bfloat16>(
      from.type, [&]<class T>() { return converted<A>(thread.template load<N>(static_cast<const T*>(from.data) + at)); });
}
template <class A, int N, class Thread>
DKIC_DEVICE void write(const Thread& thread, void* to, Scalar type, int64_t at, const Pack<A, N>& values) {
  with_scalar<half, bfloat16>(type, [&]<class T>() { thread.template store<N>(static_cast<T*>(to) + at, converted<T>(values)); });
}

}  // namespace dkic::gpu
