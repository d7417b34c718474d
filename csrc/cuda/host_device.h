// The interface that kernel bodies use, so that the same source compiles for the GPU and, in tests, for the CPU.
//
// A body is a template over the thread type, which provides the thread index, collectives and memory accesses: CudaThread with
// nvcc, and a class of the emulator with the same members in tests (tests/simt/simt.h).
#pragma once
#include <cstdint>
#include <cstring>

#include "cuda/pack.h"
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DKIC_DEVICE __device__ __forceinline__
#define DKIC_PRAGMA(text) _Pragma(#text)
#define DKIC_UNROLL(times) DKIC_PRAGMA(unroll times)
#else
#define DKIC_DEVICE inline
#define DKIC_UNROLL(times)
#endif

namespace dkic::gpu {

// Every lane of a warp.
constexpr unsigned kAllLanes = 0xffffffff;

#ifdef __CUDACC__

using half = __half;
using bfloat16 = __nv_bfloat16;

template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// N elements as one word of a memory access.
template <class T, int N>
using WordOf = typename Word<int(sizeof(T)) * N>::type;

template <int N, class T>
__device__ __forceinline__ const WordOf<T, N>* words(const T* from) {
  return reinterpret_cast<const WordOf<T, N>*>(from);
}
template <int N, class T>
__device__ __forceinline__ WordOf<T, N>* words(T* to) {
  return reinterpret_cast<WordOf<T, N>*>(to);
}
template <class T, int N>
__device__ __forceinline__ Pack<T, N> unpacked(const WordOf<T, N>& word) {
  Pack<T, N> values;
  memcpy(&values, &word, sizeof word);
  return values;
}
template <class T, int N>
__device__ __forceinline__ WordOf<T, N> packed(const Pack<T, N>& values) {
  WordOf<T, N> word;
  memcpy(&word, &values, sizeof word);
  return word;
}

// One-dimensional blocks in a one-dimensional grid.
class CudaThread {
 public:
  __device__ __forceinline__ int index() const { return int(threadIdx.x); }
  __device__ __forceinline__ int64_t block() const { return blockIdx.x; }
  __device__ __forceinline__ int64_t blocks() const { return gridDim.x; }

  // The block's shared memory, of the size given to the launch.
  template <class T>
  __device__ __forceinline__ T* shared() const {
    extern __shared__ __align__(16) unsigned char dkic_shared[];
    return reinterpret_cast<T*>(dkic_shared);
  }

  __device__ __forceinline__ void barrier() const { __syncthreads(); }
  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }
  // From lane `source` of the same segment of `width` lanes, a power of two.
  template <class T>
  __device__ __forceinline__ T shuffle(unsigned mask, T value, int source, int width = 32) const {
    return __shfl_sync(mask, value, source, width);
  }
  template <class T>
  __device__ __forceinline__ T shuffle_xor(unsigned mask, T value, int distance) const {
    return __shfl_xor_sync(mask, value, distance);
  }

  // One access of N elements that the kernel never writes.
  template <int N, class T>
  __device__ __forceinline__ Pack<T, N> load(const T* from) const {
    return unpacked<T, N>(__ldg(words<N>(from)));
  }
  // As above, for elements that are read once: the caches evict them first.
  template <int N, class T>
  __device__ __forceinline__ Pack<T, N> load_streaming(const T* from) const {
    return unpacked<T, N>(__ldcs(words<N>(from)));
  }
  // As above, for elements that the kernel may also write.
  template <int N, class T>
  __device__ __forceinline__ Pack<T, N> load_written(const T* from) const {
    return unpacked<T, N>(*words<N>(from));
  }
  template <int N, class T>
  __device__ __forceinline__ void store(T* to, const Pack<T, N>& values) const {
    *words<N>(to) = packed(values);
  }
  // As above, for elements that no kernel reads soon: the caches evict them first.
  template <int N, class T>
  __device__ __forceinline__ void store_streaming(T* to, const Pack<T, N>& values) const {
    __stcs(words<N>(to), packed(values));
  }

  template <class T>
  __device__ __forceinline__ void atomic_add(T* to, T value) const {
    atomicAdd(to, value);
  }
  // Four elements, aligned to 16 bytes: one instruction if has_vector_atomics().
  __device__ __forceinline__ void atomic_add(float* to, const Pack<float, 4>& values) const {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(values.v[0]),
                 "f"(values.v[1]), "f"(values.v[2]), "f"(values.v[3])
                 : "memory");
#else
    for (int v = 0; v < 4; ++v) atomicAdd(to + v, values.v[v]);
#endif
  }
  __device__ __forceinline__ bool has_vector_atomics() const {
#if __CUDA_ARCH__ >= 900
    return true;
#else
    return false;
#endif
  }
  __device__ __forceinline__ void atomic_add(long long* to, long long value) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
  }
  // Returns the previous value.
  __device__ __forceinline__ unsigned atomic_fetch_add(unsigned* to, unsigned value) const { return atomicAdd(to, value); }
  __device__ __forceinline__ void atomic_max(unsigned* to, unsigned value) const { atomicMax(to, value); }
};

#else

using half = _Float16;

struct bfloat16 {
  uint16_t bits;

  bfloat16() = default;
  // Rounds to nearest, half to even; NaN stays NaN.
  explicit bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    bits = value != value ? 0x7fff : uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};

#endif

// The type of sums and positions.
template <class T>
struct SumOf {
  using type = float;
};
template <>
struct SumOf<double> {
  using type = double;
};

}  // namespace dkic::gpu
