// plain_nchw.h on the emulator: reads a problem (ldcn_problem.h) in contiguous NCHW, and writes y and the gradients of offset,
// mask and x, the last three in float. `plain count` instead writes the global memory traffic of the kernels.
#include "emulator.h"
#include "ldcn_problem.h"
#include "plain_nchw.h"

namespace {

template <class T>
void run(simt::Problem& problem, bool count) {
  dkic::LdcnArguments& a = problem.a;
  const int64_t size_of_y = problem.pixels() * a.channels, taps = problem.pixels() * problem.taps();
  const int64_t mask_size = a.mask.data ? taps : 0;
  const auto y = simt::array<T>(size_of_y, 0xff);
  const auto grad_offset = simt::array<float>(taps * 2, 0xff), grad_mask = simt::array<float>(mask_size, 0xff);
  const auto grad_x = simt::array<float>(problem.size_of_x(), 0);
  a.y = y.get(), a.grad_offset = grad_offset.get(), a.grad_x = grad_x.get();
  a.grad_mask = mask_size ? grad_mask.get() : nullptr;

  simt::Traffic traffic;
  problem.name_inputs(traffic);
  traffic.name("y", y.get(), size_t(size_of_y) * sizeof(T));
  traffic.name("grad_offset", grad_offset.get(), size_t(taps) * 2 * sizeof(float));
  traffic.name("grad_mask", grad_mask.get(), size_t(mask_size) * sizeof(float));
  traffic.name("grad_x", grad_x.get(), size_t(problem.size_of_x()) * sizeof(float));

  const simt::Emulator launch{problem.order, problem.most_blocks, count ? &traffic : nullptr, problem.vector_atomics};
  const auto blocks = [](int64_t threads) { return (threads + 255) / 256; };
  launch(simt::PlainForward<T>{{a}}, blocks(size_of_y));
  launch(simt::PlainBackwardX<T>{{a}}, blocks(size_of_y));
  launch(simt::PlainBackwardSamples<T>{{a}}, blocks(taps));

  if (count) return traffic.print(stdout);
  simt::write(y, size_of_y);
  simt::write(grad_offset, taps * 2);
  simt::write(grad_mask, mask_size);
  simt::write(grad_x, problem.size_of_x());
}

}  // namespace

int main(int count, char**) {
  return simt::run_with_type([&](simt::Problem& problem, auto type) { run<decltype(type)>(problem, count > 1); });
}
