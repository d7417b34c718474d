// Launch configuration of ldcn's general CUDA kernels: the lanes that cover the channels of a group, and the positions of a
// block.
#pragma once
#include <cstddef>

#include "common/ldcn_arguments.h"
#include "cuda/host_device.h"

namespace dkic::gpu {

constexpr int kLdcnThreads = 256;  // per block
// Taps per block in shared memory, half as many for double: 24 KB (double: 20 KB), so that an SM with 100 KB runs four blocks.
constexpr int kLdcnTaps = 1024;

// A block computes the channels of one group at kLdcnThreads / lanes positions. The positions form a 2-d tile, because then their
// samples overlap most.
struct LdcnPlan {
  int lanes;                    // per position: a power of two, at most a warp
  int tile_height, tile_width;  // in positions
  int chunk;                    // taps per position that are computed at once
  bool offset_pairs;            // dy and dx can be loaded in one access
  int64_t tile_rows, tile_columns, tiles;
  size_t shared_bytes;
};

// Values of a tap besides its corners; loaded from shared memory in 16-byte accesses.
template <class A>
struct alignas(16) TapNumbers {
  A v[4];
};

// Channels per vector access, up to 16 bytes, given the alignment and strides of x, of `t` (grad_y or x) and of the result.
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

// Whether dy and dx of a tap are adjacent and aligned to the size of the pair.
inline bool ldcn_offset_pairs(const Strided& offset) {
  const uintptr_t pair = 2 * (offset.type == Scalar::f64 ? 8 : offset.type == Scalar::f32 ? 4 : 2);
  const bool even = offset.n % 2 == 0 && offset.h % 2 == 0 && offset.w % 2 == 0;
  return offset.c == 1 && even && reinterpret_cast<uintptr_t>(offset.data) % pair == 0;
}

// vector: channels per lane. sum_size: bytes of the accumulator type. least_columns: minimum tile width, if a block has as many
// positions.
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
