// ldcn's CUDA kernels on the emulator: reads a problem from standard input, as ldcn_program.py writes it, and writes y and the
// gradients of offset, mask and x to standard output, that of x twice: by floating-point sums, and by integers. Every tensor is a
// heap block of its own size, so that AddressSanitizer sees an access beyond it.
#include <cstdio>
#include <cstdlib>

#include "emulator.h"
#include "ldcn_cuda_launches.cuh"

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

  const int vector = ldcn_vector(a, a.x, a.y, sizeof(T));
  const auto grad_x = array<T>(size_of_x, 0xff), grad_x_fixed = array<T>(size_of_x, 0);
  const simt::Emulator launch{problem.order, problem.most_blocks};
  launch_ldcn_forward<T>(launch, a);
  launch_ldcn_backward_samples<T>(launch, a);
  a.grad_x = grad_x.get();
  launch_ldcn_backward_x<T>(launch, a, sums.get());
  const auto integers = array<long long>(sizeof(T) == 8 ? 2 * size_of_x : size_of_x, 0);
  const auto largest = array<unsigned>(2, 0);
  a.grad_x = grad_x_fixed.get();
  launch_ldcn_backward_x_fixed<T>(launch, a, integers.get(), largest.get());

  std::fwrite(&vector, sizeof vector, 1, stdout);
  write(y, pixels * a.channels);
  write(grad_offset, pixels * a.groups * k * 2);
  if (a.grad_mask) write(grad_mask, pixels * a.groups * k);
  if constexpr (sizeof(T) == 2) {
    write(grad_x, size_of_x);
  } else {
    write(sums, size_of_x);
  }
  write(grad_x_fixed, size_of_x);
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
