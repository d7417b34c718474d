// A problem of ldcn, forward and backward, in the format that ldcn_program.py writes to standard input. Every tensor is a heap
// block of its exact size, so that AddressSanitizer detects out-of-bounds accesses.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "cuda/ldcn_cuda_launches.cuh"
#include "simt.h"

namespace simt {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Array = std::unique_ptr<T[], Free>;

// Memory filled with NaN (results that are stored) or 0 (accumulators), with the alignment of CUDA allocations.
template <class T>
Array<T> array(int64_t count, int byte) {
  const size_t bytes = size_t(count) * sizeof(T);
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes)) throw std::bad_alloc();
  std::memset(p, byte, bytes);
  return Array<T>(static_cast<T*>(p));
}

inline void read_all(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the problem ends early");
}

inline int64_t number() {
  int64_t value;
  read_all(&value, sizeof value);
  return value;
}

inline int64_t size_of(dkic::Scalar type) { return type == dkic::Scalar::f64 ? 8 : type == dkic::Scalar::f32 ? 4 : 2; }

// The memory of a tensor begins `lead` elements after an aligned address.
struct Input {
  Array<char> memory;
  dkic::Strided strided;
  size_t bytes;
};

inline Input tensor() {
  const auto type = dkic::Scalar(number());
  const int64_t n = number(), c = number(), h = number(), w = number(), lead = number(), bytes = number();
  const int64_t size = size_of(type);
  Input input{array<char>(lead * size + bytes, 0xff), {nullptr, type, n, c, h, w}, size_t(bytes)};
  read_all(input.memory.get() + lead * size, size_t(bytes));
  input.strided.data = bytes ? input.memory.get() + lead * size : nullptr;
  return input;
}

struct Problem {
  dkic::LdcnArguments a{};
  Order order;
  int64_t most_blocks;
  bool vector_atomics;
  Input x, offset, mask, grad_y;

  int64_t pixels() const { return a.batch * a.out_height * a.out_width; }
  int64_t taps() const { return a.groups * a.kernel_h * a.kernel_w; }
  int64_t size_of_x() const { return a.batch * a.channels * a.height * a.width; }

  void name_inputs(Traffic& traffic) const {
    for (const auto& [name, input] : {std::pair("x", &x), {"offset", &offset}, {"mask", &mask}, {"grad_y", &grad_y}})
      traffic.name(name, input->strided.data, input->bytes);
  }
};

inline Problem read_problem() {
  dkic::LdcnArguments a{};
  for (int64_t* field : {&a.batch, &a.channels, &a.height, &a.width, &a.groups, &a.out_height, &a.out_width, &a.kernel_h,
                         &a.kernel_w, &a.stride_h, &a.stride_w, &a.padding_h, &a.padding_w, &a.dilation_h, &a.dilation_w})
    *field = number();
  const auto order = Order(number());
  const int64_t most_blocks = number();
  const bool vector_atomics = number() != 0;
  Input x = tensor(), offset = tensor(), mask = tensor(), grad_y = tensor();
  a.x = x.strided, a.offset = offset.strided, a.mask = mask.strided, a.grad_y = grad_y.strided;
  return {a, order, most_blocks, vector_atomics, std::move(x), std::move(offset), std::move(mask), std::move(grad_y)};
}

template <class T>
void write(const Array<T>& from, int64_t count) {
  std::fwrite(from.get(), sizeof(T), size_t(count), stdout);
}

// Reads a problem and calls f(problem, T()) for its type of x. Returns 1 and prints the message if that throws.
template <class F>
int run_with_type(const F& f) {
  try {
    Problem problem = read_problem();
    switch (problem.a.x.type) {
      case dkic::Scalar::f32:
        f(problem, float());
        break;
      case dkic::Scalar::f64:
        f(problem, double());
        break;
      case dkic::Scalar::f16:
        f(problem, dkic::gpu::half());
        break;
      case dkic::Scalar::bf16:
        f(problem, dkic::gpu::bfloat16());
        break;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace simt
