// ldcn's CUDA kernels on the emulator: reads a problem from standard input, as ldcn_program.py writes it, and writes y and the
// gradients of offset, mask and x to standard output, that of x twice: by floating-point sums, and by integers. Every tensor is a
// heap block of its own size, so that AddressSanitizer sees an access beyond it.
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "ldcn_cuda_fixed.cuh"
#include "simt.h"

namespace {

using namespace dkic;
using namespace dkic::gpu;

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Array = std::unique_ptr<T[], Free>;

// NaN all over, for what is written, or 0 all over, for what is added to; aligned as CUDA's allocations are.
template <class T>
Array<T> array(int64_t count, int byte) {
  const size_t bytes = size_t(count) * sizeof(T);
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes)) throw std::bad_alloc();
  std::memset(p, byte, bytes);
  return Array<T>(static_cast<T*>(p));
}

void read_all(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the problem ends early");
}

int64_t number() {
  int64_t value;
  read_all(&value, sizeof value);
  return value;
}

// A tensor's memory begins `lead` elements after an aligned address.
struct Input {
  Array<char> memory;
  Strided strided;
};

Input tensor() {
  const auto type = Scalar(number());
  const int64_t n = number(), c = number(), h = number(), w = number(), lead = number(), bytes = number();
  const int64_t size = type == Scalar::f64 ? 8 : type == Scalar::f32 ? 4 : 2;
  Input input{array<char>(lead * size + bytes, 0xff), {nullptr, type, n, c, h, w}};
  read_all(input.memory.get() + lead * size, size_t(bytes));
  input.strided.data = bytes ? input.memory.get() + lead * size : nullptr;
  return input;
}

template <class T>
void write(const Array<T>& from, int64_t count) {
  std::fwrite(from.get(), sizeof(T), size_t(count), stdout);
}

struct Problem {
  LdcnArguments a{};
  simt::Order order;
  int64_t most_blocks;
};

// Fewer blocks than there is work: some have several shares.
simt::Launch launch_of(const Problem& problem, const char* kernel, int64_t shares, size_t shared_bytes) {
  return {kernel, std::min(shares, problem.most_blocks), kLdcnThreads, shared_bytes, problem.order};
}

template <class T, int V>
void forward(const Problem& problem) {
  const LdcnPlan plan = ldcn_plan(problem.a, V, sizeof(typename SumOf<T>::type));
  simt::launch(launch_of(problem, "ldcn_forward", plan.tiles, plan.shared_bytes),
               [&](const simt::Thread& thread) { ldcn_forward<T, V>(thread, problem.a, plan); });
}

template <class T, int V>
void backward_samples(const Problem& problem) {
  const LdcnPlan plan = ldcn_plan(problem.a, V, sizeof(typename SumOf<T>::type));
  simt::launch(launch_of(problem, "ldcn_backward_samples", plan.tiles, plan.shared_bytes),
               [&](const simt::Thread& thread) { ldcn_backward_samples<T, V>(thread, problem.a, plan); });
}

// Calls f<V>() for the vector of that many channels.
template <class T, class F>
void with_vector(int vector, const F& f) {
  if (vector == 1) return f.template operator()<1>();
  if (vector == 2) return f.template operator()<2>();
  if constexpr (sizeof(T) <= 4)
    if (vector == 4) return f.template operator()<4>();
  if constexpr (sizeof(T) == 2)
    if (vector == 8) return f.template operator()<8>();
  throw std::runtime_error("no such vector");
}

int64_t blocks_of(int64_t count) { return (count + kLdcnThreads - 1) / kLdcnThreads; }

// The gradient of x by integers.
template <class T>
Array<T> backward_x_fixed(const Problem& problem, const LdcnPlan& plan) {
  const LdcnArguments& a = problem.a;
  const int64_t size_of_x = a.batch * a.channels * a.height * a.width, pixels = a.batch * a.out_height * a.out_width;
  auto grad_x = array<T>(size_of_x, 0);
  const auto sums = array<long long>(sizeof(T) == 8 ? 2 * size_of_x : size_of_x, 0);
  const auto largest = array<unsigned>(2, 0);
  largest[1] = kMagnitudeOfOne;  // without a mask
  const auto find_largest = [&](const Strided& t, int64_t channels, unsigned* to) {
    *to = 0;
    simt::launch(launch_of(problem, "ldcn_largest", blocks_of(pixels * channels), 0), [&](const simt::Thread& thread) {
      ldcn_largest<typename SumOf<T>::type>(thread, t, a.batch, channels, a.out_height, a.out_width, to);
    });
  };
  find_largest(a.grad_y, a.channels, &largest[0]);
  if (a.mask.data) find_largest(a.mask, a.groups * a.kernel_h * a.kernel_w, &largest[1]);
  const FixedGradient<T> to{sums.get(), grad_x.get(), largest.get()};
  simt::launch(launch_of(problem, "ldcn_backward_x_fixed", plan.tiles, plan.shared_bytes),
               [&](const simt::Thread& thread) { ldcn_backward_x_fixed<T>(thread, a, plan, to); });
  simt::launch(launch_of(problem, "ldcn_round_fixed", blocks_of(size_of_x), 0),
               [&](const simt::Thread& thread) { ldcn_round_fixed<T>(thread, a, to); });
  return grad_x;
}

template <class T>
void run(Problem& problem) {
  using A = typename SumOf<T>::type;
  LdcnArguments& a = problem.a;
  const int64_t k = a.kernel_h * a.kernel_w, pixels = a.batch * a.out_height * a.out_width;
  const auto y = array<T>(pixels * a.channels, 0xff);
  const auto grad_offset = array<A>(pixels * a.groups * k * 2, 0xff), grad_mask = array<A>(pixels * a.groups * k, 0xff);
  const int64_t size_of_x = a.batch * a.channels * a.height * a.width;
  const auto sums = array<A>(size_of_x, 0);
  a.y = y.get(), a.grad_offset = grad_offset.get(), a.grad_mask = a.mask.data ? grad_mask.get() : nullptr;

  const int vector = ldcn_vector(a, a.x, a.y, sizeof(T)), backward_vector = ldcn_vector(a, a.grad_y, nullptr, sizeof(T));
  with_vector<T>(vector, [&]<int V>() { forward<T, V>(problem); });
  with_vector<T>(backward_vector, [&]<int V>() { backward_samples<T, V>(problem); });
  const LdcnPlan plan = ldcn_plan(a, 1, sizeof(A));
  simt::launch(launch_of(problem, "ldcn_backward_x", plan.tiles, plan.shared_bytes),
               [&](const simt::Thread& thread) { ldcn_backward_x<T>(thread, a, plan, sums.get()); });

  std::fwrite(&vector, sizeof vector, 1, stdout);
  write(y, pixels * a.channels);
  write(grad_offset, pixels * a.groups * k * 2);
  if (a.grad_mask) write(grad_mask, pixels * a.groups * k);
  if constexpr (sizeof(T) == 2) {
    const auto grad_x = array<T>(size_of_x, 0xff);
    simt::launch(launch_of(problem, "ldcn_round", blocks_of(size_of_x), 0),
                 [&](const simt::Thread& thread) { ldcn_round<T>(thread, sums.get(), size_of_x, grad_x.get()); });
    write(grad_x, size_of_x);
  } else {
    write(sums, size_of_x);
  }
  write(backward_x_fixed<T>(problem, plan), size_of_x);
}

}  // namespace

int main() {
  try {
    Problem problem;
    LdcnArguments& a = problem.a;
    for (int64_t* field : {&a.batch, &a.channels, &a.height, &a.width, &a.groups, &a.out_height, &a.out_width, &a.kernel_h,
                           &a.kernel_w, &a.stride_h, &a.stride_w, &a.padding_h, &a.padding_w, &a.dilation_h, &a.dilation_w})
      *field = number();
    problem.order = simt::Order(number());
    problem.most_blocks = number();
    const Input x = tensor(), offset = tensor(), mask = tensor(), grad_y = tensor();
    a.x = x.strided, a.offset = offset.strided, a.mask = mask.strided, a.grad_y = grad_y.strided;
    switch (a.x.type) {
      case Scalar::f32:
        run<float>(problem);
        break;
      case Scalar::f64:
        run<double>(problem);
        break;
      case Scalar::f16:
        run<half>(problem);
        break;
      case Scalar::bf16:
        run<bfloat16>(problem);
        break;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
