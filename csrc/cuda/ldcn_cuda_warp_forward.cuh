// Forward of ldcn for 3 x 3 and 5 x 5 kernels. The lanes of a position compute different taps and exchange them by shuffles:
// without shared memory, which would reduce the L1 cache for x, and without barriers.
#pragma once
#include "cuda/ldcn_cuda_warp_taps.cuh"

namespace dkic::gpu {

struct WarpTap {
  unsigned start;
  float weights[4];  // of corners (0,0) (0,1) (1,0) (1,1), times the mask
};

template <int kSide>
DKIC_DEVICE WarpTap weighted_tap(const LdcnWarpPlan& plan, const Position& at, int tap, const TapInput& input, unsigned origin) {
  const TapPlace of = place_of<kSide>(plan, at, tap, input);
  const AxisWeights y = weights_at(plan.rows, of.y.distance), x = weights_at(plan.columns, of.x.distance);
  const float top = input.mask * y.first, bottom = input.mask * y.second;
  return {start_of(plan, of, origin), {top * x.first, top * x.second, bottom * x.first, bottom * x.second}};
}

// Adds the tap of lane `source` in each segment of `width` lanes to the sums, for the vector at offset `vector` from its start.
template <class T, int V, class Thread>
DKIC_DEVICE void add_tap(const Thread& thread, const LdcnWarpPlan& plan, const WarpTap& tap, int source, int width,
                         unsigned vector, float (&sums)[V]) {
  const unsigned at = thread.shuffle(kAllLanes, tap.start, source, width) + vector;
  Pack<T, V> corners[4];
  load_samples<T>(thread, plan, at, corners);
  for (int corner = 0; corner < 4; ++corner) {
    const float weight = thread.shuffle(kAllLanes, tap.weights[corner], source, width);
    const auto values = converted<float>(corners[corner]);
    for (int v = 0; v < V; ++v) sums[v] += weight * values.v[v];
  }
}

template <int V>
DKIC_DEVICE bool all_finite(const float (&sums)[V]) {
  float zero = 0;
  for (int v = 0; v < V; ++v) zero += 0 * sums[v];
  return zero == 0;
}

// The sums of V channels of a position, computed as in the general kernel.
template <class T, int V, class Thread>
DKIC_DEVICE void sum_exactly(const Thread& thread, const LdcnArguments& a, int n, int g, const Position& at, int channel,
                             float (&sums)[V]) {
  const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * (a.channels / a.groups) + channel;
  for (int v = 0; v < V; ++v) sums[v] = 0;
  const int taps = int(a.kernel_h * a.kernel_w);
  DKIC_UNROLL(1)
  for (int tap = 0; tap < taps; ++tap) {
    const auto of = compute_tap<Weights, float>(thread, a, true, n, g, at, tap, a.x.h, a.x.w);
    Pack<T, V> corners[4];
    load_corners<V>(thread, of.corners, x, a.x.h, a.x.w, corners);
    for (int corner = 0; corner < 4; ++corner) {
      const auto values = converted<float>(corners[corner]);
      for (int v = 0; v < V; ++v) sums[v] += of.numbers.v[corner] * values.v[v];
    }
  }
}

// P: the type of offset and mask. The kernel size is kSide x kSide.
template <class T, class P, int kSide, int kTeam, class Thread>
DKIC_DEVICE void ldcn_warp_forward(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan) {
  using Lane = WarpLane<kTeam>;
  constexpr int V = 16 / sizeof(T), kTaps = kSide * kSide, kLast = kTaps - 1;
  static_assert(kLast % 8 == 0);
  const Lane lane(thread.index());
  for (unsigned index = unsigned(thread.block()); index < plan.tiles; index += unsigned(thread.blocks())) {
    const WarpTile tile = warp_tile<kTeam>(plan, index);
    const unsigned group = tile.group + lane.team, part = tile.part * plan.part_vectors;
    const auto origin_of = [&](unsigned g) { return tile.n * plan.of_x.n + g * plan.group_vectors; };
    // A lane past the end of the slice loads the same vector as the last lane in the slice.
    const unsigned left = plan.group_vectors - part, count = left < plan.part_vectors ? left : plan.part_vectors;
    const bool has_vector = lane.member < count;
    const unsigned vector = part + (has_vector ? lane.member : count - 1);

    WarpTap last_tap{};
    if (lane.last_step() < unsigned(kTileSteps)) {
      const Position at = warp_position(plan, tile, lane.warp, lane.last_step(), lane.last_position());
      const unsigned g = tile.group + lane.last_team();
      const TapInput input = read_tap<P>(thread, plan, tile.n, at, g * kTaps + kLast);
      last_tap = weighted_tap<kSide>(plan, at, kLast, input, origin_of(g));
    }
    const auto y_of = [&](const Position& at) {
      return static_cast<T*>(a.y) + size_t(result_at(plan, tile.n, at, group) + vector) * V;
    };
    unsigned not_finite = 0;  // one bit per step
    DKIC_UNROLL(1)
    for (int step = 0; step < kTileSteps; ++step) {
      const Position at = warp_position(plan, tile, lane.warp, step, lane.position);
      float sums[V] = {};
      DKIC_UNROLL(1)
      for (int first = 0; first < kLast; first += 8) {
        const auto own = [&](int i) { return first + i * kTeam + int(lane.member); };
        TapInput inputs[Lane::kOwnTaps];
        for (int i = 0; i < Lane::kOwnTaps; ++i) inputs[i] = read_tap<P>(thread, plan, tile.n, at, group * kTaps + own(i));
        WarpTap taps[Lane::kOwnTaps];
        for (int i = 0; i < Lane::kOwnTaps; ++i) taps[i] = weighted_tap<kSide>(plan, at, own(i), inputs[i], origin_of(group));
        DKIC_UNROLL(8)
        for (int tap = 0; tap < 8; ++tap) add_tap<T>(thread, plan, taps[tap / kTeam], tap % kTeam, kTeam, vector, sums);
      }
      add_tap<T>(thread, plan, last_tap, lane.source_of_last(step), 32, vector, sums);
      if (!at.exists || !has_vector) continue;
      if (!all_finite(sums)) not_finite |= 1u << step;
      thread.template store_streaming<V>(y_of(at), converted<T>(to_pack(sums)));
    }
    // Sums that are not finite are computed again: a sample of weight 0 that is not finite makes a sum NaN, and so does a NaN in
    // the offset of a tap outside the image; neither may affect the result.
    DKIC_UNROLL(1)
    for (int step = 0; not_finite >> step; ++step) {
      if (!(not_finite >> step & 1)) continue;
      const Position at = warp_position(plan, tile, lane.warp, step, lane.position);
      float sums[V];
      sum_exactly<T>(thread, a, int(tile.n), int(group), at, int(vector) * V, sums);
      thread.template store_streaming<V>(y_of(at), converted<T>(to_pack(sums)));
    }
  }
}

}  // namespace dkic::gpu
