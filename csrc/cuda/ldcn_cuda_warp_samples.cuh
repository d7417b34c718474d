// Gradients of offset and mask of ldcn for 3 x 3 and 5 x 5 kernels, partitioned as in the forward (ldcn_cuda_warp_forward.cuh).
//
// The gradients of a tap need the dot products, over the channels of the group, of grad_y and its four corners. The lanes of a
// group reduce them by a recursive-halving reduce-scatter: each lane ends with the sums of its own taps.
#pragma once
#include "cuda/ldcn_cuda_warp_taps.cuh"

namespace dkic::gpu {

// Dot products over channels of grad_y and the corners (0,0) (0,1) (1,0) (1,1).
struct Dots {
  float v[4];
};

template <class T, int V, class Thread>
DKIC_DEVICE Dots dots_at(const Thread& thread, const LdcnWarpPlan& plan, unsigned at, const Pack<float, V>& g) {
  Pack<T, V> corners[4];
  load_samples<T>(thread, plan, at, corners);
  Dots dots;
  for (int corner = 0; corner < 4; ++corner) {
    const auto values = converted<float>(corners[corner]);
    dots.v[corner] = 0;
    for (int v = 0; v < V; ++v) dots.v[corner] += g.v[v] * values.v[v];
  }
  return dots;
}

// Reduce-scatter over the kTeam lanes of a group: lane `member` ends with the sums of tap + member. dots_of(tap): the summands of
// this lane. kBit: the distance of the lanes that exchange. The recursion order keeps few partial sums live, which saves
// registers.
template <int kBit, int kTeam, class DotsOf, class Thread>
DKIC_DEVICE Dots exchanged_sums(const Thread& thread, unsigned member, int tap, const DotsOf& dots_of) {
  if constexpr (kBit == kTeam) {
    return dots_of(tap);
  } else {
    const Dots low = exchanged_sums<kBit * 2, kTeam>(thread, member, tap, dots_of);
    const Dots high = exchanged_sums<kBit * 2, kTeam>(thread, member, tap + kBit, dots_of);
    const bool upper = member & kBit;
    Dots sums;
    for (int corner = 0; corner < 4; ++corner) {
      const float kept = upper ? high.v[corner] : low.v[corner], given = upper ? low.v[corner] : high.v[corner];
      sums.v[corner] = kept + thread.shuffle_xor(kAllLanes, given, kBit);
    }
    return sums;
  }
}

// Derivatives of the weights of the two samples of an axis by the position; on a sample, the right-sided derivatives.
DKIC_DEVICE AxisWeights slopes_at(const WarpAxis& axis, float distance) {
  return {std::fabs(distance) < 1 ? (distance < 0 ? 1.f : -1.f) : 0.f,
          distance >= 0 && distance < axis.reach ? (distance < 1 ? 1.f : -1.f) : 0.f};
}

DKIC_DEVICE TapGradients<float> gradients_of(const LdcnWarpPlan& plan, const TapPlace& tap, float mask, const Dots& dots) {
  const AxisWeights y = weights_at(plan.rows, tap.y.distance), x = weights_at(plan.columns, tap.x.distance);
  const AxisWeights along_y = slopes_at(plan.rows, tap.y.distance), along_x = slopes_at(plan.columns, tap.x.distance);
  const float top = x.first * dots.v[0] + x.second * dots.v[1], bottom = x.first * dots.v[2] + x.second * dots.v[3];
  const float left = y.first * dots.v[0] + y.second * dots.v[2], right = y.first * dots.v[1] + y.second * dots.v[3];
  return {mask * (along_y.first * top + along_y.second * bottom), mask * (along_x.first * left + along_x.second * right),
          y.first * top + y.second * bottom};
}

// The gradients of a tap, computed as in the general kernel.
template <class T, int V, class Thread>
DKIC_DEVICE TapGradients<float> exact_gradients(const Thread& thread, const LdcnArguments& a, int n, int g, const Position& at,
                                                int tap) {
  const int depth = int(a.channels / a.groups);
  const T* x = static_cast<const T*>(a.x.data) + n * a.x.n + g * depth;
  const T* grad_y = static_cast<const T*>(a.grad_y.data) + n * a.grad_y.n + at.oh * a.grad_y.h + at.ow * a.grad_y.w + g * depth;
  const auto of = compute_tap<Fractions, float>(thread, a, true, n, g, at, tap, a.x.h, a.x.w);
  if (!of.corners.any()) return {0, 0, 0};
  float dots[4] = {};
  DKIC_UNROLL(1)
  for (int channel = 0; channel < depth; channel += V) {
    const auto gradient = converted<float>(thread.template load<V>(grad_y + channel));
    Pack<T, V> corners[4];
    load_corners<V>(thread, of.corners, x + channel, a.x.h, a.x.w, corners);
    for (int corner = 0; corner < 4; ++corner) {
      const auto values = converted<float>(corners[corner]);
      for (int v = 0; v < V; ++v) dots[corner] += gradient.v[v] * values.v[v];
    }
  }
  return gradients_from(of.numbers, dots);
}

// Stores the gradients of a tap; returns whether all are finite. channel: group * taps + tap.
template <class P, class Thread>
DKIC_DEVICE bool store_gradients(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, unsigned n,
                                 const Position& at, unsigned channel, int taps, const TapGradients<float>& of) {
  const unsigned pixel = (n * plan.rows.out + at.oh) * plan.columns.out + at.ow, i = pixel * unsigned(a.groups) * taps + channel;
  const Pack<float, 2> along{{of.along_y, of.along_x}};
  if (a.grad_offset) thread.template store<2>(static_cast<P*>(a.grad_offset) + size_t(i) * 2, converted<P>(along));
  if (a.grad_mask) thread.template store<1>(static_cast<P*>(a.grad_mask) + i, Pack<P, 1>{{converted<P>(of.of_mask)}});
  return 0 * of.along_y + 0 * of.along_x + 0 * of.of_mask == 0;
}

// P: the type of offset and mask. The kernel size is kSide x kSide.
template <class T, class P, int kSide, int kTeam, class Thread>
DKIC_DEVICE void ldcn_warp_samples(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan) {
  using Lane = WarpLane<kTeam>;
  constexpr int V = 16 / sizeof(T), kTaps = kSide * kSide, kLast = kTaps - 1;
  constexpr int kOwn = kLast / kTeam;  // taps per lane without the last tap: o * kTeam + member
  static_assert(kLast % 8 == 0 && (kOwn + 1) * kTileSteps <= 32);
  const Lane lane(thread.index());
  const bool has_vector = lane.member < plan.group_vectors;
  const unsigned vector = has_vector ? lane.member : plan.group_vectors - 1;
  for (unsigned index = unsigned(thread.block()); index < plan.tiles; index += unsigned(thread.blocks())) {
    const WarpTile tile = warp_tile<kTeam>(plan, index);
    const unsigned group = tile.group + lane.team, origin = tile.n * plan.of_x.n + group * plan.group_vectors;
    unsigned not_finite = 0;  // one bit per tap
    DKIC_UNROLL(1)
    for (int step = 0; step < kTileSteps; ++step) {
      const Position at = warp_position(plan, tile, lane.warp, step, lane.position);
      const auto finish = [&](int own, int tap, const TapPlace& place, float mask, const Dots& dots) {
        const auto gradients = gradients_of(plan, place, mask, dots);
        const bool finite = store_gradients<P>(thread, a, plan, tile.n, at, group * kTaps + tap, kTaps, gradients);
        if (!finite) not_finite |= 1u << (step * (kOwn + 1) + own);
      };
      Pack<float, V> g{};
      if (at.exists && has_vector) {
        const T* grad_y = static_cast<const T*>(a.grad_y.data) + size_t(result_at(plan, tile.n, at, group) + vector) * V;
        g = converted<float>(thread.template load_streaming<V>(grad_y));
      }
      const TapInput last_input = read_tap<P>(thread, plan, tile.n, at, group * kTaps + kLast);
      DKIC_UNROLL(1)
      for (int first = 0; first < kOwn; first += Lane::kOwnTaps) {
        const auto tap_of = [&](int i) { return (first + i) * kTeam + int(lane.member); };
        TapInput inputs[Lane::kOwnTaps];
        for (int i = 0; i < Lane::kOwnTaps; ++i) inputs[i] = read_tap<P>(thread, plan, tile.n, at, group * kTaps + tap_of(i));
        DKIC_UNROLL(8)
        for (int i = 0; i < Lane::kOwnTaps; ++i) {
          const TapPlace place = place_of<kSide>(plan, at, tap_of(i), inputs[i]);
          const unsigned start = start_of(plan, place, origin);
          const Dots dots = exchanged_sums<1, kTeam>(thread, lane.member, 0, [&](int member) {
            return dots_at<T>(thread, plan, thread.shuffle(kAllLanes, start, member, kTeam) + vector, g);
          });
          if (at.exists) finish(first + i, tap_of(i), place, inputs[i].mask, dots);
        }
      }
      const TapPlace place = place_of<kSide>(plan, at, kLast, last_input);
      Dots dots = dots_at<T>(thread, plan, start_of(plan, place, origin) + vector, g);
      for (int distance = kTeam / 2; distance; distance /= 2)
        for (float& dot : dots.v) dot += thread.shuffle_xor(kAllLanes, dot, distance);
      if (at.exists && lane.member == 0) finish(kOwn, kLast, place, last_input.mask, dots);
    }
    // As in the forward, gradients that are not finite are computed again.
    DKIC_UNROLL(1)
    for (int bit = 0; not_finite >> bit; ++bit) {
      if (!(not_finite >> bit & 1)) continue;
      const int own = bit % (kOwn + 1), tap = own < kOwn ? own * kTeam + int(lane.member) : kLast;
      const Position at = warp_position(plan, tile, lane.warp, bit / (kOwn + 1), lane.position);
      const auto gradients = exact_gradients<T, V>(thread, a, int(tile.n), int(group), at, tap);
      store_gradients<P>(thread, a, plan, tile.n, at, group * kTaps + tap, kTaps, gradients);
    }
  }
}

}  // namespace dkic::gpu
