// Kernels with one fault each, and the same kernels without it, for test_emulator.py: `planted_faults NAME ORDER` prints the
// result of the kernel, or exits with 1 and the error message of the emulator.
#include <cmath>
#include <cstdio>
#include <map>

#include "simt.h"

namespace {

constexpr int kThreads = 64;
constexpr unsigned kAll = 0xffffffff;

using Kernel = void (*)(const simt::Thread& thread, float* y);

// y[i] = 63 - i, through shared memory.
template <bool kBarrier>
void reverse(const simt::Thread& thread, float* y) {
  auto* s = thread.shared<float>();
  const int i = thread.index();
  s[i] = float(i);
  if (kBarrier) thread.barrier();
  y[i] = s[kThreads - 1 - i];
}

void beyond_shared(const simt::Thread& thread, float* y) {
  auto* s = thread.shared<float>();
  s[thread.index() + 1] = 1;
  thread.barrier();
  y[thread.index()] = s[thread.index()];
}

void read_out_of_bounds(const simt::Thread& thread, float* y) {
  const float value = y[thread.index() + 1];
  thread.barrier();
  y[thread.index()] = value;
}

void stack_out_of_bounds(const simt::Thread& thread, float* y) {
  volatile float local[4] = {1, 2, 3, 4};
  thread.barrier();
  y[thread.index()] = local[thread.index() % 5];
}

// The sum of 0 to 31, or of 32 to 63, in every lane.
void sum_of_a_warp(const simt::Thread& thread, float* y) {
  float sum = float(thread.index());
  for (int distance = 16; distance; distance /= 2) sum += thread.shuffle_xor(kAll, sum, distance);
  y[thread.index()] = sum;
}
void sum_downwards(const simt::Thread& thread, float* y) {
  float sum = float(thread.index());
  for (int distance = 16; distance; distance /= 2) sum += thread.shuffle_down(kAll, sum, distance);
  y[thread.index()] = thread.shuffle(kAll, sum, 0);
}
// Every lane reads the third value of its eight lanes.
void segments(const simt::Thread& thread, float* y) { y[thread.index()] = thread.shuffle(kAll, float(thread.index()), 2, 8); }
void ballots(const simt::Thread& thread, float* y) {
  y[thread.index()] = thread.ballot(kAll, thread.index() % 2) == 0xaaaaaaaau ? 1.f : 0.f;
}
void half_a_warp(const simt::Thread& thread, float* y) {
  const int i = thread.index();
  y[i] = i % 32 < 16 ? thread.shuffle_xor(0xffffu, float(i), 1) : thread.shuffle_xor(0xffff0000u, float(i), 1);
}

void mask_without_the_lane(const simt::Thread& thread, float* y) { y[thread.index()] = thread.shuffle_xor(0xffffu, 1.f, 1); }
void masks_that_differ(const simt::Thread& thread, float* y) {
  y[thread.index()] = thread.shuffle_xor(thread.index() % 32 < 16 ? kAll : 0xffff0000u, 1.f, 1);
}
void lane_that_has_ended(const simt::Thread& thread, float* y) {
  if (thread.index() % 32 == 3) return;
  y[thread.index()] = thread.shuffle_xor(kAll, 1.f, 1);
}
void source_outside_the_mask(const simt::Thread& thread, float* y) {
  y[thread.index()] = 1;
  if (thread.index() % 32 < 16) y[thread.index()] = thread.shuffle(0xffffu, 1.f, 20);
}
void lane_that_never_comes(const simt::Thread& thread, float* y) {
  if (thread.index() == 3) thread.barrier();
  y[thread.index()] = thread.shuffle_xor(kAll, 1.f, 1);
  thread.barrier();
}
void different_barriers(const simt::Thread& thread, float* y) {
  if (thread.index() < 7) {
    thread.barrier();
  } else {
    thread.barrier();
  }
  y[thread.index()] = 1;
}

void vectors(const simt::Thread& thread, float* y) {
  if (thread.index() % 4) return;
  auto values = thread.load<4>(y + thread.index());
  for (float& v : values.v) v += 1;
  thread.store<4>(y + thread.index(), values);
}
void misaligned_load(const simt::Thread& thread, float* y) {
  if (thread.index() == 8) y[0] = thread.load<4>(y + 2).v[0];
}
void misaligned_store(const simt::Thread& thread, float* y) {
  if (thread.index() == 8) thread.store<2>(y + 1, {{1, 2}});
}

void atomics(const simt::Thread& thread, float* y) {
  thread.atomic_add(y + thread.index() % 2, 0.5f);
  auto* s = thread.shared<long long>();
  if (thread.index() == 0) s[0] = 0;
  thread.barrier();
  thread.atomic_add(s, (long long)(thread.index()));
  thread.barrier();
  if (thread.index() == 63) y[63] = float(s[0]);
}

const std::map<std::string, Kernel> kernels = {
    {"reverse", reverse<true>},
    {"missing_barrier", reverse<false>},
    {"beyond_shared", beyond_shared},
    {"read_out_of_bounds", read_out_of_bounds},
    {"stack_out_of_bounds", stack_out_of_bounds},
    {"sum_of_a_warp", sum_of_a_warp},
    {"sum_downwards", sum_downwards},
    {"segments", segments},
    {"ballots", ballots},
    {"half_a_warp", half_a_warp},
    {"mask_without_the_lane", mask_without_the_lane},
    {"masks_that_differ", masks_that_differ},
    {"lane_that_has_ended", lane_that_has_ended},
    {"source_outside_the_mask", source_outside_the_mask},
    {"lane_that_never_comes", lane_that_never_comes},
    {"different_barriers", different_barriers},
    {"vectors", vectors},
    {"misaligned_load", misaligned_load},
    {"misaligned_store", misaligned_store},
    {"atomics", atomics},
};

}  // namespace

int main(int, char** arguments) {
  const auto order = simt::Order(std::stoi(arguments[2]));
  const std::unique_ptr<float[]> y(new float[kThreads]());
  try {
    // Two blocks: the second reuses the stacks of the first.
    simt::launch({arguments[1], 2, kThreads, kThreads * sizeof(float), order},
                 [&](const simt::Thread& thread) { kernels.at(arguments[1])(thread, y.get()); });
  } catch (const simt::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  for (int i = 0; i < kThreads; ++i) std::printf("%g ", y[i]);
}
