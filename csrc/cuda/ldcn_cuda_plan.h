// How a launch of ldcn's CUDA kernels is cut: which lanes cover a group's channels, and which positions a block has.
#pragma once
#include <cstddef>

#include "common/ldcn_arguments.h"
#include "cuda/host_device.h"

namespace dkic::gpu {

constexpr int kLdcnThreads = 256;  // of a block
// Taps whose arithmetic a block keeps at once, half as many in double: 24 KB or 20, of which an SM of 100 KB holds four.
constexpr int kLdcnTaps = 1024;

// A block has one group's channels at kLdcnThreads / lanes positions, which lie in a tile: its samples overlap most so.
struct LdcnPlan {
  int lanes;                    // that share a position: a power of two, at most a warp
  int tile_height, tile_width;  // in positions
  int chunk;                    // taps of a position that are worked out at once
  bool offset_pairs;            // dy and dx can be loaded in one access
  int64_t tile_rows, tile_columns, tiles;
  size_t shared_bytes;
};

// What a kernel needs of a tap beside its place, read from shared memory 16 bytes at once.
template <class A>
struct alignas(16) TapNumbers {
  A v[4];
};

// How many channels of a group one lane may load and store at once, up to 16 bytes: as x, `t` (grad_y, or x again) and what is
// written let it, where they begin and by their strides.
inline int ldcn_vector(const LdcnArguments& a, const Strided& t, const void* written, int element_size) {
  const auto fits = [&](int64_t v) {
    const auto aligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % uintptr_t(v * element_size) == 0; };
    const auto all_aligned = [&](const Strided& s) { return aligned(s.data) && s.n % v == 0 && s.h % v == 0 && s.w % v == 0; };
    return a.channels / a.groups % v == 0 && all_aligned(a.x) && all_aligned(t) && aligned(written);
  };
  int v = 16 / element_size;
  while (v > 1 && !fits(v)) v /= 2;
  return v;
}

// Whether a tap's dy and dx lie side by side and are aligned to the size of both.
inline bool ldcn_offset_pairs(const Strided& offset) {
  const uintptr_t pair = 2 * (offset.type == Scalar::f64 ? 8 : offset.type == Scalar::f32 ? 4 : 2);
  const bool even = offset.n % 2 == 0 && offset.h % 2 == 0 && offset.w % 2 == 0;
  return offset.c == 1 && even && reinterpret_cast<uintptr_t>(offset.data) % pair == 0;
}

// `vector` channels to a lane, sums of `sum_size` bytes, tiles of at least so many columns where there are as many positions.
inline LdcnPlan ldcn_plan(const LdcnArguments& a, int vector, int sum_size, int least_columns = 1) {
  LdcnPlan plan{};
  const int64_t depth = a.channels / a.groups, k = a.kernel_h * a.kernel_w;
  plan.lanes = 1;
  while (plan.lanes < 32 && int64_t(plan.lanes) * vector < depth) plan.lanes *= 2;
  const int positions = kLdcnThreads / plan.lanes;
  plan.tile_width = 1;
  while (plan.tile_width < positions && (plan.tile_width < least_columns || plan.tile_width * plan.tile_width < positions)) {
    plan.tile_width *= 2;
  }
  plan.tile_height = positions / plan.tile_width;
  const int most = kLdcnTaps / positions / (sum_size / 4);
  plan.chunk = k < most ? int(k) : most;
  plan.tile_rows = (a.out_height + plan.tile_height - 1) / plan.tile_height;
  plan.tile_columns = (a.out_width + plan.tile_width - 1) / plan.tile_width;
  plan.offset_pairs = ldcn_offset_pairs(a.offset);
  plan.tiles = a.batch * a.groups * plan.tile_rows * plan.tile_columns;
  plan.shared_bytes = size_t(positions) * size_t(plan.chunk) * (4 * size_t(sum_size) + sizeof(int64_t));
  return plan;
}

}  // namespace dkic::gpu
