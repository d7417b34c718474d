// Shared by ldcn's warp kernels: the assignment of lanes and positions, and taps whose four samples are always inside the image.
//
// The four samples of a tap are clamped into the image, and a sample that is not a corner of the position has the weight 0. So
// loads need no predicate. The two weights of an axis are tent functions around its two samples: max(0, 1 - |d|) and
// max(0, min(d, 2 - d)), where d is the distance from the first sample. Both are exact wherever the bilinear weights are.
#pragma once
#include "cuda/ldcn_cuda_kernels.cuh"
#include "cuda/ldcn_cuda_warp_plan.h"

namespace dkic::gpu {

// floor(value), saturated to the range of int; 0 for NaN.
DKIC_DEVICE int saturated_floor(float value) {
#ifdef __CUDA_ARCH__
  return __float2int_rd(value);
#else
  if (value != value) return 0;
  return value >= 2147483648.f ? INT32_MAX : value < -2147483648.f ? INT32_MIN : int(std::floor(value));
#endif
}

// max(0, value); propagates NaN.
DKIC_DEVICE float at_least_0(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
#else
  return value <= 0 ? 0.f : value;
#endif
}

// Assignment of a lane in a warp of kWarpPositions positions: eight lanes per position, kTeam of them per group. Each lane
// computes kOwnTaps of every eight taps of its group and position, and one of the last taps of the steps.
template <int kTeam>
struct WarpLane {
  static constexpr int kTeams = kPositionLanes / kTeam, kOwnTaps = 8 / kTeam;

  // Unsigned, so that divisions by constants are shifts.
  unsigned warp, lane, position, team, member;

  explicit DKIC_DEVICE WarpLane(int thread)
      : warp(unsigned(thread) / 32),
        lane(unsigned(thread) % 32),
        position(lane / kPositionLanes),
        team(lane % kPositionLanes / kTeam),
        member(lane % kTeam) {}

  // The last taps of all steps are computed at once, one per lane: positions vary fastest, then groups, then steps.
  static_assert(kWarpPositions * kTeams * kTileSteps <= 32);
  DKIC_DEVICE int source_of_last(int step) const { return (step * kTeams + int(team)) * kWarpPositions + int(position); }
  DKIC_DEVICE unsigned last_position() const { return lane % kWarpPositions; }
  DKIC_DEVICE unsigned last_team() const { return lane / kWarpPositions % kTeams; }
  DKIC_DEVICE unsigned last_step() const { return lane / (kWarpPositions * kTeams); }
};

// Work item of a block. The slices of a tile are consecutive, so that concurrent blocks share sectors.
struct WarpTile {
  unsigned n, group, part;  // the first group of the slice
  int oh, ow;               // of the first position
};

template <int kTeam>
DKIC_DEVICE WarpTile warp_tile(const LdcnWarpPlan& plan, unsigned index) {
  WarpTile tile;
  unsigned rest = plan.slices.quotient(index);
  const unsigned slice = index - rest * plan.slices.divisor, group = plan.parts.quotient(slice);
  tile.part = slice - group * plan.parts.divisor;
  tile.group = group * WarpLane<kTeam>::kTeams;
  const unsigned row = plan.tile_columns.quotient(rest);
  tile.ow = int(rest - row * plan.tile_columns.divisor) * kTileSide;
  tile.n = plan.tile_rows.quotient(row);
  tile.oh = int(row - tile.n * plan.tile_rows.divisor) * kTileSide;
  return tile;
}

// Position p of a warp in one step over the tile of its block; it may be outside the result.
DKIC_DEVICE Position warp_position(const LdcnWarpPlan& plan, const WarpTile& tile, unsigned warp, unsigned step, unsigned p) {
  constexpr unsigned kWarpsInRow = kTileSide / kWarpPositions;
  const int oh = tile.oh + int(step * kStepRows + warp / kWarpsInRow);
  const int ow = tile.ow + int(warp % kWarpsInRow * kWarpPositions + p);
  return {oh, ow, oh < plan.rows.out && ow < plan.columns.out};
}

// Offset and mask of a tap; 0 for a position that does not exist.
struct TapInput {
  float dy, dx, mask;
};

// channel: group * taps + tap.
template <class P, class Thread>
DKIC_DEVICE TapInput read_tap(const Thread& thread, const LdcnWarpPlan& plan, unsigned n, const Position& at, unsigned channel) {
  TapInput input{0, 0, 0};
  if (at.exists) {
    const auto pixel = [&](const PixelStrides& s) { return n * s.n + unsigned(at.oh) * s.h + unsigned(at.ow) * s.w; };
    const P* offset = static_cast<const P*>(plan.offset) + (pixel(plan.of_offset) + channel * 2);
    const auto d = converted<float>(thread.template load_streaming<2>(offset));
    input = {d.v[0], d.v[1], 1};
    if (plan.mask) {
      const P* mask = static_cast<const P*>(plan.mask) + (pixel(plan.of_mask) + channel);
      input.mask = converted<float>(thread.template load_streaming<1>(mask).v[0]);
    }
  }
  return input;
}

// One axis of a tap: the index of its first sample, and the distance of the position from it.
struct AxisPlace {
  int first;
  float distance;
};

DKIC_DEVICE AxisPlace place_on(const WarpAxis& axis, float position) {
  const int floor = saturated_floor(position), not_negative = floor > 0 ? floor : 0;
  const int first = not_negative < axis.last ? not_negative : axis.last;
  return {first, position - float(first)};
}

// Weights of the two samples of an axis, from the distance of the position from the first sample.
struct AxisWeights {
  float first, second;
};

DKIC_DEVICE AxisWeights weights_at(const WarpAxis& axis, float distance) {
  return {at_least_0(1 - std::fabs(distance)), at_least_0(std::fmin(distance, axis.reach - distance))};
}

// Both axes of a tap of a kSide x kSide kernel.
struct TapPlace {
  AxisPlace y, x;
};

template <int kSide>
DKIC_DEVICE TapPlace place_of(const LdcnWarpPlan& plan, const Position& at, int tap, const TapInput& input) {
  const int row = tap / kSide, column = tap - row * kSide;
  const auto along = [](const WarpAxis& axis, int out, int k, float offset) {
    return place_on(axis, float(out * axis.stride - axis.padding + k * axis.dilation) + offset);
  };
  return {along(plan.rows, at.oh, row, input.dy), along(plan.columns, at.ow, column, input.dx)};
}

// Index of corner (0, 0) of a tap, in vectors; origin: the first vector of the group at pixel (0, 0).
DKIC_DEVICE unsigned start_of(const LdcnWarpPlan& plan, const TapPlace& tap, unsigned origin) {
  return unsigned(tap.y.first) * plan.of_x.h + unsigned(tap.x.first) * plan.of_x.w + origin;
}

// V channels of the four corners of a tap; at: index of corner (0, 0), in vectors.
template <class T, int V, class Thread>
DKIC_DEVICE void load_samples(const Thread& thread, const LdcnWarpPlan& plan, unsigned at, Pack<T, V> (&corners)[4]) {
  for (int corner = 0; corner < 4; ++corner)
    corners[corner] = thread.template load<V>(static_cast<const T*>(plan.x[corner]) + size_t(at) * V);
}

// Index of a group at a position in y or its gradient, in vectors.
DKIC_DEVICE unsigned result_at(const LdcnWarpPlan& plan, unsigned n, const Position& at, unsigned group) {
  const PixelStrides& s = plan.of_y;
  return n * s.n + unsigned(at.oh) * s.h + unsigned(at.ow) * s.w + group * plan.group_vectors;
}

}  // namespace dkic::gpu
