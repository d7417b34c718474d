// Launch configuration of ldcn's warp kernels, and the problems that they support. Other problems use the general kernels.
//
// A warp kernel is compiled for one kernel size. Its 32-bit indexes count vectors of 16 bytes of x. A block computes a tile of
// 8 x 8 positions of one slice: as many groups as eight lanes hold, or a part of a larger group.
#pragma once
#include <optional>

#include "cuda/ldcn_cuda_plan.h"

namespace dkic::gpu {

constexpr int kPositionLanes = 8;                    // lanes per position
constexpr int kWarpPositions = 32 / kPositionLanes;  // adjacent positions that a warp computes at a time
constexpr int kTileSide = 8;
constexpr int kTileSteps = kTileSide * kTileSide * kPositionLanes / kLdcnThreads;
constexpr int kStepRows = kTileSide / kTileSteps;
// Tile of the gradient of x.
constexpr int kScatterHeight = 8, kScatterWidth = 16;

// Division of a number below 2^31 by a launch constant, as a multiplication and a shift.
struct Divisor {
  unsigned divisor, multiplier, shift;

  DKIC_DEVICE unsigned quotient(unsigned dividend) const { return unsigned(uint64_t(dividend) * multiplier >> shift); }
};

inline Divisor make_divisor(int64_t divisor) {
  unsigned shift = 31;
  while ((int64_t(1) << (shift - 31)) < divisor) ++shift;
  return {unsigned(divisor), unsigned(((uint64_t(1) << shift) + uint64_t(divisor) - 1) / uint64_t(divisor)), shift};
}

struct PixelStrides {
  unsigned n, h, w;
};

// One axis of x and y. last: largest index of the first of the two samples of a position. reach: distance from the first sample
// at which the weight of the second is 0: 2, or less than any distance if x has only one sample.
struct WarpAxis {
  int last;
  float reach;
  int out, stride, padding, dilation;
};

struct LdcnWarpPlan {
  int kernel_side;
  int team;                         // lanes per group: 2, 4 or 8
  bool float_offset;                // offset and mask are float32, for any type of x
  const void* x[4];                 // corners (0,0) (0,1) (1,0) (1,1) of the sample at pixel (0, 0)
  const void* offset;               // channels adjacent, dy and dx in one access
  const void* mask;                 // channels adjacent; nullptr: ones
  PixelStrides of_x, of_y;          // in vectors; of_y: of y, or of its gradient
  PixelStrides of_offset, of_mask;  // in elements
  WarpAxis rows, columns;
  unsigned group_vectors, part_vectors;  // per group; per part of a group, at most
  Divisor parts, slices, tile_columns, tile_rows;
  unsigned tiles;
};

inline WarpAxis warp_axis(int64_t size, int64_t out, int64_t stride, int64_t padding, int64_t dilation) {
  return {size > 1 ? int(size - 2) : 0, size > 1 ? 2.f : -1e30f, int(out), int(stride), int(padding), int(dilation)};
}

// Strides of a [batch, channels, height, width] tensor with adjacent channels, in units of `unit` elements; nullopt if indexes of
// units exceed 32 bits.
inline std::optional<PixelStrides> pixel_strides(const Strided& t, int64_t batch, int64_t channels, int64_t height, int64_t width,
                                                 int64_t unit) {
  const auto extent = [](int64_t size, int64_t stride) { return double(size - 1) * double(stride); };
  const double end = extent(batch, t.n) + extent(height, t.h) + extent(width, t.w) + double(channels);
  if (end / double(unit) >= 4294967296.0) return std::nullopt;
  return PixelStrides{unsigned(t.n / unit), unsigned(t.h / unit), unsigned(t.w / unit)};
}

// Whether a warp kernel supports the kernel size, the types, and the layouts of x, offset and mask.
inline bool has_warp_kernel(const LdcnArguments& a) {
  const bool size = a.kernel_h == a.kernel_w && (a.kernel_h == 3 || a.kernel_h == 5);
  const bool types = (a.offset.type == a.x.type || a.offset.type == Scalar::f32) && a.x.type != Scalar::f64;
  const bool mask = !a.mask.data || (a.mask.type == a.offset.type && a.mask.c == 1);
  const bool any = a.height > 0 && a.width > 0 && a.out_height > 0 && a.out_width > 0;
  return size && types && mask && ldcn_offset_pairs(a.offset) && any;
}

// Partition of a launch: elements per vector, slices of the channels, and positions per block.
struct WarpCut {
  int64_t vector, slices, tile_height, tile_width;
};

// The common part of all plans. x: x or its gradient; y: y or its gradient. nullopt if 32 bits do not suffice.
inline std::optional<LdcnWarpPlan> cut_plan(const LdcnArguments& a, const Strided& x, const Strided& y, const WarpCut& cut) {
  const int64_t taps = a.groups * a.kernel_h * a.kernel_w;
  const auto of_x = pixel_strides(x, a.batch, a.channels, a.height, a.width, cut.vector);
  const auto of_y = pixel_strides(y, a.batch, a.channels, a.out_height, a.out_width, cut.vector);
  const auto of_offset = pixel_strides(a.offset, a.batch, taps * 2, a.out_height, a.out_width, 1);
  const auto of_mask = pixel_strides(a.mask, a.batch, taps, a.out_height, a.out_width, 1);
  const int64_t tile_rows = (a.out_height + cut.tile_height - 1) / cut.tile_height;
  const int64_t tile_columns = (a.out_width + cut.tile_width - 1) / cut.tile_width;
  const double tiles = double(cut.slices) * double(tile_rows) * double(tile_columns) * double(a.batch);
  if (!of_x || !of_y || !of_offset || !of_mask || tiles >= 2147483648.0) return std::nullopt;

  LdcnWarpPlan plan{};
  plan.kernel_side = int(a.kernel_h), plan.float_offset = a.offset.type == Scalar::f32;
  plan.offset = a.offset.data, plan.mask = a.mask.data;
  plan.of_x = *of_x, plan.of_y = *of_y, plan.of_offset = *of_offset, plan.of_mask = *of_mask;
  plan.rows = warp_axis(a.height, a.out_height, a.stride_h, a.padding_h, a.dilation_h);
  plan.columns = warp_axis(a.width, a.out_width, a.stride_w, a.padding_w, a.dilation_w);
  plan.group_vectors = unsigned(a.channels / a.groups / cut.vector);
  plan.slices = make_divisor(cut.slices);
  plan.tile_columns = make_divisor(tile_columns), plan.tile_rows = make_divisor(tile_rows);
  plan.tiles = unsigned(tiles);
  return plan;
}

// The plan of a warp kernel; nullopt: use the general kernel. T: the type of x. y: y or its gradient.
template <class T>
std::optional<LdcnWarpPlan> ldcn_warp_plan(const LdcnArguments& a, const Strided& y) {
  constexpr int64_t kVector = 16 / sizeof(T);
  if (!has_warp_kernel(a) || ldcn_vector(a, y, nullptr, sizeof(T)) != kVector) return std::nullopt;
  const int64_t of_group = a.channels / a.groups / kVector, parts = (of_group + kPositionLanes - 1) / kPositionLanes;
  const int64_t of_part = (of_group + parts - 1) / parts;
  int team = 2;
  while (team < kPositionLanes && (team < of_part || a.groups % (kPositionLanes / team) != 0)) team *= 2;
  auto plan = cut_plan(a, a.x, y, {kVector, a.groups / (kPositionLanes / team) * parts, kTileSide, kTileSide});
  if (!plan) return std::nullopt;
  plan->team = team, plan->part_vectors = unsigned(of_part), plan->parts = make_divisor(parts);
  const int64_t right = a.width > 1 ? a.x.w : 0, down = a.height > 1 ? a.x.h : 0;
  for (int corner = 0; corner < 4; ++corner)
    plan->x[corner] = static_cast<const T*>(a.x.data) + (corner & 1 ? right : 0) + (corner & 2 ? down : 0);
  return plan;
}

template <class T>
std::optional<LdcnWarpPlan> ldcn_warp_forward_plan(const LdcnArguments& a) {
  const Strided y{a.y, a.x.type, a.out_height * a.out_width * a.channels, 1, a.out_width * a.channels, a.channels};
  return ldcn_warp_plan<T>(a, y);
}

// At most eight lanes sum over channels, and indexes of the results have 32 bits.
template <class T>
std::optional<LdcnWarpPlan> ldcn_warp_samples_plan(const LdcnArguments& a) {
  const auto plan = ldcn_warp_plan<T>(a, a.grad_y);
  const double results = double(a.batch) * double(a.out_height * a.out_width) * double(a.groups * a.kernel_h * a.kernel_w * 2);
  return plan && plan->parts.divisor == 1 && results < 4294967296.0 ? plan : std::nullopt;
}

// Plan of the window kernel (ldcn_cuda_window_scatter.cuh), for the group depths that it is compiled for. Indexes count quads of
// channels; of_x: strides of the gradient of x.
template <class T>
std::optional<LdcnWarpPlan> ldcn_window_plan(const LdcnArguments& a) {
  const int64_t depth = a.channels / a.groups;
  const bool geometry = a.kernel_h == 3 && a.stride_h == 1 && a.stride_w == 1 && (depth == 16 || depth == 24 || depth == 32);
  if (!has_warp_kernel(a) || !geometry || ldcn_vector(a, a.grad_y, nullptr, sizeof(T)) < 4) return std::nullopt;
  const Strided grad_x{nullptr, a.x.type, a.height * a.width * a.channels, 1, a.width * a.channels, a.channels};
  return cut_plan(a, grad_x, a.grad_y, {4, a.groups, kScatterHeight, kScatterWidth});
}

}  // namespace dkic::gpu
