// ldcn's CUDA kernels on the emulator: reads a problem (ldcn_problem.h) and writes y and the gradients of offset, mask and x to
// standard output; the gradient of x twice, from floating-point and from integer sums. `ldcn count` instead writes the global
// memory traffic of all kernels except those of the integer sums.
#include "emulator.h"
#include "ldcn_problem.h"

namespace {

using namespace dkic;
using namespace dkic::gpu;

template <class T>
void run(simt::Problem& problem, bool count) {
  using A = typename SumOf<T>::type;
  constexpr bool kHalf = sizeof(T) == 2;
  LdcnArguments& a = problem.a;
  const int64_t pixels = problem.pixels(), taps = problem.taps(), size_of_x = problem.size_of_x();
  const int64_t integers = sizeof(T) == 8 ? 2 * size_of_x : size_of_x;
  const auto y = simt::array<T>(pixels * a.channels, 0xff);
  const int64_t offset_bytes = pixels * taps * 2 * simt::size_of(a.offset.type);
  const int64_t mask_bytes = a.mask.data ? pixels * taps * simt::size_of(a.mask.type) : 0;
  const auto grad_offset = simt::array<char>(offset_bytes, 0xff), grad_mask = simt::array<char>(mask_bytes, 0xff);
  const auto sums = simt::array<A>(size_of_x, 0);  // grad_x, except for half types
  const auto grad_x = simt::array<T>(kHalf ? size_of_x : 0, 0xff);
  const auto fixed_sums = simt::array<long long>(integers, 0);
  const auto largest = simt::array<unsigned>(2, 0);
  const auto fixed_grad_x = simt::array<T>(size_of_x, 0);

  simt::Traffic traffic;
  problem.name_inputs(traffic);
  const auto name = [&](const char* tensor, const auto& array, int64_t size) {
    traffic.name(tensor, array.get(), size_t(size) * sizeof array[0]);
  };
  name("y", y, pixels * a.channels);
  name("grad_offset", grad_offset, offset_bytes);
  name("grad_mask", grad_mask, mask_bytes);
  name(kHalf ? "sums" : "grad_x", sums, size_of_x);
  name("grad_x", grad_x, kHalf ? size_of_x : 0);

  a.y = y.get(), a.grad_offset = grad_offset.get(), a.grad_mask = mask_bytes ? grad_mask.get() : nullptr;
  const int vector = ldcn_vector(a, a.x, a.y, sizeof(T));
  const int special[] = {ldcn_warp_forward_plan<T>(a).has_value(), ldcn_warp_samples_plan<T>(a).has_value(),
                         ldcn_window_plan<T>(a).has_value()};
  const simt::Emulator launch{problem.order, problem.most_blocks, count ? &traffic : nullptr, problem.vector_atomics};
  launch_ldcn_forward<T>(launch, a);
  launch_ldcn_backward_samples<T>(launch, a);
  a.grad_x = grad_x.get();
  launch_ldcn_backward_x<T>(launch, a, sums.get());
  if (count) return traffic.print(stdout);
  a.grad_x = fixed_grad_x.get();
  launch_ldcn_backward_x_fixed<T>(launch, a, fixed_sums.get(), largest.get());

  std::fwrite(&vector, sizeof vector, 1, stdout);
  std::fwrite(special, sizeof special, 1, stdout);
  simt::write(y, pixels * a.channels);
  simt::write(grad_offset, offset_bytes);
  simt::write(grad_mask, mask_bytes);
  if constexpr (kHalf) {
    simt::write(grad_x, size_of_x);
  } else {
    simt::write(sums, size_of_x);
  }
  simt::write(fixed_grad_x, size_of_x);
}

}  // namespace

int main(int count, char**) {
  return simt::run_with_type([&](simt::Problem& problem, auto type) { run<decltype(type)>(problem, count > 1); });
}
