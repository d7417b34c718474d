// Kernels with known memory traffic, for test_traffic.py: `counted_accesses NAME` prints the emulator's counts, or exits with 1
// and an error message. Two blocks of two warps; tensors `a` (kFloats floats) and `b` (kDoubles doubles) are aligned to 256
// bytes.
#include <cstdio>
#include <map>

#include "simt.h"

namespace {

constexpr int kThreads = 64, kFloats = 4096, kDoubles = 64;

struct Tensors {
  alignas(256) float a[kFloats] = {};
  alignas(256) double b[kDoubles] = {};
  float unnamed = 0;
};

using Kernel = void (*)(const simt::Thread& thread, Tensors& t);

int64_t whole_index(const simt::Thread& thread) { return thread.block() * kThreads + thread.index(); }

void floats_side_by_side(const simt::Thread& thread, Tensors& t) { thread.load<1>(t.a + whole_index(thread)); }
void one_float_further(const simt::Thread& thread, Tensors& t) { thread.load<1>(t.a + 1 + whole_index(thread)); }
void every_eighth(const simt::Thread& thread, Tensors& t) { thread.load<1>(t.a + 8 * whole_index(thread)); }
void one_for_all(const simt::Thread& thread, Tensors& t) { thread.load<1>(t.a + 7); }
void vectors(const simt::Thread& thread, Tensors& t) { thread.store<4>(t.a + 4 * whole_index(thread), {{1, 2, 3, 4}}); }
void doubles(const simt::Thread& thread, Tensors& t) { thread.load<1>(t.b + thread.index()); }
void atomics(const simt::Thread& thread, Tensors& t) { thread.atomic_add(t.a + thread.index() / 16, 1.f); }

void one_half_of_a_warp(const simt::Thread& thread, Tensors& t) {
  if (thread.index() % 32 < 16) thread.load<1>(t.a + whole_index(thread));
}
// Lane i executes the access i % 3 times.
void loops_of_several_lengths(const simt::Thread& thread, Tensors& t) {
  for (int i = 0; i < thread.index() % 32 % 3; ++i) thread.load<1>(t.a + i * 128 + thread.index());
}
// An access that one lane skips does not shift the requests after the next warp barrier.
template <bool kShuffle>
void skipped_before_waiting(const simt::Thread& thread, Tensors& t) {
  for (int i = 0; i < 4; ++i) {
    if (i > 0 || thread.index() % 2) thread.load<1>(t.a + i * 128 + thread.index());
    if (kShuffle) {
      thread.shuffle_xor(0xffffffff, 1, 1);
    } else {
      thread.barrier();
    }
  }
}
void two_tensors_in_one_line(const simt::Thread& thread, Tensors& t) {
  if (thread.index() % 2) {
    for (float* p : {t.a, t.a + 512}) thread.store<1>(p + thread.index(), {{1}});
  } else {
    thread.store<1>(t.b + thread.index(), {{1}});
  }
}
void shared_memory(const simt::Thread& thread, Tensors& t) {
  auto* s = thread.shared<float>();
  s[thread.index()] = 0;
  thread.barrier();
  thread.atomic_add(s, 1.f);
  if (thread.index() == 0) thread.store<1>(t.a, {{s[0]}});
}
void unnamed(const simt::Thread& thread, Tensors& t) {
  if (thread.index() == 5) thread.store<1>(&t.unnamed, {{1}});
}

const std::map<std::string, Kernel> kernels = {
    {"floats_side_by_side", floats_side_by_side},
    {"one_float_further", one_float_further},
    {"every_eighth", every_eighth},
    {"one_for_all", one_for_all},
    {"vectors", vectors},
    {"doubles", doubles},
    {"atomics", atomics},
    {"one_half_of_a_warp", one_half_of_a_warp},
    {"loops_of_several_lengths", loops_of_several_lengths},
    {"skipped_before_a_barrier", skipped_before_waiting<false>},
    {"skipped_before_a_shuffle", skipped_before_waiting<true>},
    {"two_tensors_in_one_line", two_tensors_in_one_line},
    {"shared_memory", shared_memory},
    {"unnamed", unnamed},
};

}  // namespace

int main(int, char** arguments) {
  const auto tensors = std::make_unique<Tensors>();
  simt::Traffic traffic;
  traffic.name("a", tensors->a, sizeof tensors->a);
  traffic.name("b", tensors->b, sizeof tensors->b);
  try {
    simt::Launch launch{arguments[1], 2, kThreads, kThreads * sizeof(float), simt::Order(std::stoi(arguments[2]))};
    launch.traffic = &traffic;
    simt::launch(launch, [&](const simt::Thread& thread) { kernels.at(arguments[1])(thread, *tensors); });
  } catch (const simt::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  traffic.print(stdout);
}
