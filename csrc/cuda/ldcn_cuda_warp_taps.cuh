// What ldcn's warp kernels share: a lane's task, its positions, and taps that never leave the image.
//
// A tap's four samples are moved into the image, and a sample that is not one of the position's corners has the weight 0. So
// loads need no predicate. The two weights of an axis are tents around its two samples: max(0, 1 - |d|) and
// max(0, min(d, 2 - d)), d being the distance from the first. Both are exact where the bilinear weights are.
#pragma once
#include "cuda/ldcn_cuda_kernels.cuh"
#include "cuda/ldcn_cuda_warp_plan.h"

namespace dkic::gpu {

// Rounded down; a number out of range becomes the nearest int, NaN becomes 0.
DKIC_DEVICE int saturated_floor(float value) {
#ifdef __CUDA_ARCH__
  return __float2int_rd(value);
#else
  if (value != value) return 0;
  return value >= 2147483648.f ? INT32_MAX : value < -2147483648.f ? INT32_MIN : int(std::floor(value));
#endif
}

// max(0, value); NaN stays NaN.
DKIC_DEVICE float at_least_0(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
#else
  return value <= 0 ? 0.f : value;
#endif
}

// Which part a lane has in a warp of kWarpPositions positions: eight lanes a position, kTeam of them a group. Each lane computes
// kOwnTaps of every eight taps of its group and position, and one of the last taps of the block's steps.
template <int kTeam>
struct WarpLane {
  static constexpr int kTeams = kPositionLanes / kTeam, kOwnTaps = 8 / kTeam;

  // Unsigned: the divisions by constants are shifts.
  unsigned warp, lane, position, team, member;

  explicit DKIC_DEVICE WarpLane(int thread)
      : warp(unsigned(thread) / 32),
        lane(unsigned(thread) % 32),
        position(lane / kPositionLanes),
        team(lane % kPositionLanes / kTeam),
        member(lane % kTeam) {}

  // The last taps are computed together: lane by lane, positions first, then groups, then steps.
  static_assert(kWarpPositions * kTeams * kTileSteps <= 32);
  DKIC_DEVICE int source_of_last(int step) const { return (step * kTeams + int(team)) * kWarpPositions + int(position); }
  DKIC_DEVICE unsigned last_position() const { return lane % kWarpPositions; }
  DKIC_DEVICE unsigned last_team() const { return lane / kWarpPositions % kTeams; }
  DKIC_DEVICE unsigned last_step() const { return lane / (kWarpPositions * kTeams); }
};

// A block's share of the work. The slices of a tile follow one another, so that blocks which run together share sectors.
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

// Position p of a warp in one step over its block's tile; it may lie beyond the border.
DKIC_DEVICE Position warp_position(const LdcnWarpPlan& plan, const WarpTile& tile, unsigned warp, unsigned step, unsigned p) {
  constexpr unsigned kWarpsInRow = kTileSide / kWarpPositions;
  const int oh = tile.oh + int(step * kStepRows + warp / kWarpsInRow);
  const int ow = tile.ow + int(warp % kWarpsInRow * kWarpPositions + p);
  return {oh, ow, oh < plan.rows.out && ow < plan.columns.out};
}

// A tap's offset and mask, 0 of a position that does not exist.
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

// One axis of a tap: where its two samples begin, and how far behind the first the position lies.
struct AxisPlace {
  int first;
  float distance;
};

DKIC_DEVICE AxisPlace place_on(const WarpAxis& axis, float position) {
  const int floor = saturated_floor(position), not_negative = floor > 0 ? floor : 0;
  const int first = not_negative < axis.last ? not_negative : axis.last;
  return {first, position - float(first)};
}

// What the two samples of an axis count, by the distance of the position from the first.
struct AxisWeights {
  float first, second;
};

DKIC_DEVICE AxisWeights weights_at(const WarpAxis& axis, float distance) {
  return {at_least_0(1 - std::fabs(distance)), at_least_0(std::fmin(distance, axis.reach - distance))};
}

// A tap of kernels of kSide x kSide.
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

// Where corner (0, 0) of a tap lies, in vectors, `origin` being the group's first vector in pixel (0, 0).
DKIC_DEVICE unsigned start_of(const LdcnWarpPlan& plan, const TapPlace& tap, unsigned origin) {
  return unsigned(tap.y.first) * plan.of_x.h + unsigned(tap.x.first) * plan.of_x.w + origin;
}

// V channels of a tap's four corners, `at` being where corner (0, 0) lies, in vectors.
template <class T, int V, class Thread>
DKIC_DEVICE void load_samples(const Thread& thread, const LdcnWarpPlan& plan, unsigned at, Pack<T, V> (&corners)[4]) {
  for (int corner = 0; corner < 4; ++corner)
    corners[corner] = thread.template load<V>(static_cast<const T*>(plan.x[corner]) + size_t(at) * V);
}

// Where a group of a position lies in y or its gradient, in vectors.
DKIC_DEVICE unsigned result_at(const LdcnWarpPlan& plan, unsigned n, const Position& at, unsigned group) {
  const PixelStrides& s = plan.of_y;
  return n * s.n + unsigned(at.oh) * s.h + unsigned(at.ow) * s.w + group * plan.group_vectors;
}

}  // namespace dkic::gpu
