// Gradient of x of ldcn for 3 x 3 kernels, with a tenth of the atomics of the general kernel.
//
// A block computes one group at 16 x 8 positions. It sorts their taps by the pixel of corner (0, 0), within a window of 32 x 20
// pixels around the tile. Teams of lanes then iterate over the columns of the window, from top to bottom: a tap costs one read of
// grad_y from shared memory, and its four contributions are accumulated in registers. Contributions to the same pixel are summed
// in registers (along a column) and by a shuffle (across columns) before the atomic addition. Taps outside the window use atomics
// directly, as do taps with a value that is not finite: only their corners inside may contribute, and a weight of 0 would not
// exclude the others.
#pragma once
#include "cuda/ldcn_cuda_warp_taps.cuh"

namespace dkic::gpu {

constexpr int kScatterPositions = kScatterHeight * kScatterWidth;
constexpr int kScatterSide = 3, kScatterTaps = kScatterSide * kScatterSide;
constexpr int kWindowHeight = 20, kWindowWidth = 32, kBins = kWindowHeight * kWindowWidth;
constexpr int kScatterWarps = kLdcnThreads / 32, kBinsOfThread = 4;
constexpr unsigned kNoBin = ~0u;
static_assert(kBins <= kLdcnThreads * kBinsOfThread && kBins % kBinsOfThread == 0 && kScatterPositions <= 256);

using Quad = Pack<float, 4>;

DKIC_DEVICE void add(Quad& sum, const Quad& values, float weight) {
  for (int v = 0; v < 4; ++v) sum.v[v] += weight * values.v[v];
}

// Assignment of lanes for a group of kQuads * 4 channels: a team of kTeam lanes per column.
template <int kQuads>
struct ColumnLanes {
  static constexpr int kTeam = kQuads > 4 ? 8 : 4, kTeams = 32 / kTeam;
  static_assert(kQuads <= kTeam && kWindowWidth % kTeams == 0);
};

// Shared memory of a block. Taps are sorted by bin: window column * kWindowHeight + window row.
template <int kQuads>
struct ScatterShared {
  Quad weights[kScatterPositions * kScatterTaps];
  Quad gradient[kScatterPositions * kQuads];
  Quad row[kScatterWarps][(ColumnLanes<kQuads>::kTeams + 1) * kQuads];  // of the columns of a warp, and the column to their right
  unsigned bins[kBins + kBinsOfThread];                                 // number of taps per bin; then the index of its first tap
  unsigned of_warp[kScatterWarps];
  unsigned char position[kScatterPositions * kScatterTaps + 1];
  unsigned char not_finite[kScatterPositions];
};

// Origin of the tile of a block and of its window.
struct ScatterTile {
  unsigned n, group;
  int oh, ow;
  int window_row, window_column;
};

DKIC_DEVICE ScatterTile scatter_tile(const LdcnWarpPlan& plan, unsigned index) {
  ScatterTile tile;
  const unsigned rest = plan.slices.quotient(index), row = plan.tile_columns.quotient(rest);
  tile.group = index - rest * plan.slices.divisor;
  tile.ow = int(rest - row * plan.tile_columns.divisor) * kScatterWidth;
  tile.n = plan.tile_rows.quotient(row);
  tile.oh = int(row - tile.n * plan.tile_rows.divisor) * kScatterHeight;
  // Taps with zero offset are in the center of the window.
  const auto begin = [](const WarpAxis& axis, int out, int margin) { return out - axis.padding + axis.dilation - margin; };
  tile.window_row = begin(plan.rows, tile.oh, (kWindowHeight - kScatterHeight) / 2);
  tile.window_column = begin(plan.columns, tile.ow, (kWindowWidth - kScatterWidth) / 2);
  return tile;
}

DKIC_DEVICE Position scatter_position(const LdcnWarpPlan& plan, const ScatterTile& tile, int p) {
  const int oh = tile.oh + p / kScatterWidth, ow = tile.ow + p % kScatterWidth;
  return {oh, ow, oh < plan.rows.out && ow < plan.columns.out};
}

// Copies grad_y to shared memory, and marks positions where it is not finite.
template <class T, int kQuads, class Thread>
DKIC_DEVICE void stage_gradient(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, const ScatterTile& tile,
                                ScatterShared<kQuads>& shared) {
  for (int i = thread.index(); i < kScatterPositions * kQuads; i += kLdcnThreads) {
    const int p = i / kQuads, quad = i % kQuads;
    const Position at = scatter_position(plan, tile, p);
    Quad values{};
    if (at.exists) {
      const T* grad_y = static_cast<const T*>(a.grad_y.data) + size_t(result_at(plan, tile.n, at, tile.group) + quad) * 4;
      values = converted<float>(thread.template load_streaming<4>(grad_y));
    }
    shared.gradient[i] = values;
    float zero = 0;
    for (const float v : values.v) zero += 0 * v;
    if (zero != 0) shared.not_finite[p] = 1;
  }
}

// Adds the contributions of a tap with one atomic each, as the general kernel.
template <class T, class Thread>
DKIC_DEVICE void add_directly(const Thread& thread, const LdcnArguments& a, const ScatterTile& tile, const Position& at, int tap,
                              float* sums) {
  const int64_t w = a.channels, h = a.width * w;
  const int depth = int(a.channels / a.groups), first = int(tile.group) * depth;
  const auto of = compute_tap<Weights, float>(thread, a, true, int(tile.n), int(tile.group), at, tap, h, w);
  if (!of.corners.any()) return;
  const T* grad_y = static_cast<const T*>(a.grad_y.data) + tile.n * a.grad_y.n + at.oh * a.grad_y.h + at.ow * a.grad_y.w;
  DKIC_UNROLL(1)
  for (int channel = first; channel < first + depth; ++channel) {
    const float g = converted<float>(thread.template load<1>(grad_y + channel).v[0]);
    add_to_corners(thread, AtomicSum<float>{sums}, of, tile.n * a.height * h + channel, h, w, g);
  }
}

// Place of a tap in the sorted order: its bin (kNoBin if it is not in the window) and its rank in the bin.
struct SortedTap {
  Quad weights;
  unsigned bin, rank;
};

template <class T, class P, int kQuads, class Thread>
DKIC_DEVICE SortedTap sort_tap(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, const ScatterTile& tile,
                               int i, ScatterShared<kQuads>& shared, float* sums) {
  SortedTap sorted{{}, kNoBin, 0};
  const int p = i / kScatterTaps, tap = i % kScatterTaps;
  const Position at = scatter_position(plan, tile, p);
  if (p >= kScatterPositions || !at.exists) return sorted;
  const TapInput input = read_tap<P>(thread, plan, tile.n, at, tile.group * kScatterTaps + tap);
  const TapPlace place = place_of<kScatterSide>(plan, at, tap, input);
  const AxisWeights y = weights_at(plan.rows, place.y.distance), x = weights_at(plan.columns, place.x.distance);
  const float top = input.mask * y.first, bottom = input.mask * y.second;
  sorted.weights = {{top * x.first, top * x.second, bottom * x.first, bottom * x.second}};
  float zero = 0, any = 0;
  for (const float weight : sorted.weights.v) zero += 0 * weight, any += std::fabs(weight);
  const unsigned row = unsigned(place.y.first - tile.window_row), column = unsigned(place.x.first - tile.window_column);
  if (zero != 0 || shared.not_finite[p] || (any != 0 && (row >= kWindowHeight || column >= kWindowWidth))) {
    add_directly<T>(thread, a, tile, at, tap, sums);
  } else if (any != 0) {
    sorted.bin = column * kWindowHeight + row;
    sorted.rank = thread.atomic_fetch_add(&shared.bins[sorted.bin], 1u);
  }
  return sorted;
}

// Exclusive prefix sum over the bins: from the number of taps per bin to the index of the first.
template <int kQuads, class Thread>
DKIC_DEVICE void begin_bins(const Thread& thread, ScatterShared<kQuads>& shared) {
  const int first = thread.index() * kBinsOfThread, lane = thread.index() % 32, warp = thread.index() / 32;
  unsigned own[kBinsOfThread] = {}, sum = 0;
  for (int b = 0; b < kBinsOfThread; ++b) {
    if (first + b < kBins) own[b] = shared.bins[first + b];
    sum += own[b];
  }
  unsigned end = sum;
  for (int distance = 1; distance < 32; distance *= 2) {
    const unsigned before = thread.shuffle(kAllLanes, end, lane >= distance ? lane - distance : lane);
    if (lane >= distance) end += before;
  }
  if (lane == 31) shared.of_warp[warp] = end;
  thread.barrier();
  for (int w = 0; w < warp; ++w) end += shared.of_warp[w];
  unsigned begin = end - sum;
  for (int b = 0; b < kBinsOfThread; ++b) {
    if (first + b <= kBins) shared.bins[first + b] = begin;
    begin += own[b];
  }
}

// Adds a row of the columns of a warp to the sums, coalesced, with kWidth channels (1 or 4) per atomic.
template <int kQuads, int kWidth, class Thread>
DKIC_DEVICE void hand_out(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, const ScatterTile& tile,
                          const Quad* row, int y, int column, float* sums) {
  constexpr int kPixel = kQuads * 4 / kWidth, kCount = (ColumnLanes<kQuads>::kTeams + 1) * kPixel, kRounds = (kCount + 31) / 32;
  if (unsigned(y) >= unsigned(a.height)) return;
  const auto* values = reinterpret_cast<const Pack<float, kWidth>*>(row);
  DKIC_UNROLL(8)
  for (int r = 0; r < kRounds; ++r) {
    const unsigned i = r * 32 + unsigned(thread.index()) % 32, x = unsigned(column) + i / kPixel;
    if (i >= kCount || x >= unsigned(a.width)) continue;
    const Pack<float, kWidth> value = values[i];
    bool any = false;
    for (const float v : value.v) any |= v != 0;
    if (!any) continue;
    const unsigned quad = tile.n * plan.of_x.n + unsigned(y) * plan.of_x.h + x * plan.of_x.w + tile.group * kQuads;
    float* to = sums + size_t(quad) * 4 + i % kPixel * kWidth;
    if constexpr (kWidth == 4) {
      thread.atomic_add(to, value);
    } else {
      thread.atomic_add(to, value.v[0]);
    }
  }
}

// Sums the taps of the window columns of a warp, row by row.
template <int kQuads, class Thread>
DKIC_DEVICE void sum_columns(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, const ScatterTile& tile,
                             ScatterShared<kQuads>& shared, float* sums) {
  using Lanes = ColumnLanes<kQuads>;
  const int warp = thread.index() / 32, lane = thread.index() % 32, team = lane / Lanes::kTeam, member = lane % Lanes::kTeam;
  const bool has_quad = member < kQuads;
  const int quad = has_quad ? member : kQuads - 1;
  Quad* const row = shared.row[warp];
  for (int first = warp * Lanes::kTeams; first < kWindowWidth; first += kScatterWarps * Lanes::kTeams) {
    const unsigned* begins = &shared.bins[(first + team) * kWindowHeight];
    unsigned tap = begins[0], position = shared.position[tap];
    Quad below[2] = {};  // contributions of the taps of the previous row to this row
    DKIC_UNROLL(1)
    for (int y = 0; y <= kWindowHeight; ++y) {
      Quad here[2] = {below[0], below[1]};
      below[0] = below[1] = {};
      if (y < kWindowHeight) {
        const unsigned end = begins[y + 1];
        DKIC_UNROLL(1)
        for (; tap < end; ++tap) {
          const Quad weights = shared.weights[tap], g = shared.gradient[position * kQuads + quad];
          position = shared.position[tap + 1];  // prefetch; the entry after the last tap is not used
          add(here[0], g, weights.v[0]), add(here[1], g, weights.v[1]);
          add(below[0], g, weights.v[2]), add(below[1], g, weights.v[3]);
        }
      }
      for (int v = 0; v < 4; ++v) {  // right samples of the column to the left
        const float left = thread.shuffle(kAllLanes, here[1].v[v], lane >= Lanes::kTeam ? lane - Lanes::kTeam : lane);
        if (team) here[0].v[v] += left;
      }
      thread.warp_barrier();
      if (has_quad) {
        row[team * kQuads + quad] = here[0];
        if (team == Lanes::kTeams - 1) row[Lanes::kTeams * kQuads + quad] = here[1];
      }
      thread.warp_barrier();
      const int row_of_x = tile.window_row + y, column = tile.window_column + first;
      if (thread.has_vector_atomics()) {
        hand_out<kQuads, 4>(thread, a, plan, tile, row, row_of_x, column, sums);
      } else {
        hand_out<kQuads, 1>(thread, a, plan, tile, row, row_of_x, column, sums);
      }
    }
  }
}

// Accumulates into sums, contiguous NHWC, initialized to 0. P: the type of offset and mask. A group has kQuads * 4 channels.
template <class T, class P, int kQuads, class Thread>
DKIC_DEVICE void ldcn_window_scatter(const Thread& thread, const LdcnArguments& a, const LdcnWarpPlan& plan, float* sums) {
  constexpr int kRounds = (kScatterPositions * kScatterTaps + kLdcnThreads - 1) / kLdcnThreads;
  auto& shared = *thread.template shared<ScatterShared<kQuads>>();
  for (unsigned index = unsigned(thread.block()); index < plan.tiles; index += unsigned(thread.blocks())) {
    const ScatterTile tile = scatter_tile(plan, index);
    thread.barrier();
    for (int i = thread.index(); i < kBins; i += kLdcnThreads) shared.bins[i] = 0;
    for (int i = thread.index(); i < kScatterPositions; i += kLdcnThreads) shared.not_finite[i] = 0;
    thread.barrier();
    stage_gradient<T>(thread, a, plan, tile, shared);
    thread.barrier();
    SortedTap taps[kRounds];
    DKIC_UNROLL(8)
    for (int r = 0; r < kRounds; ++r)
      taps[r] = sort_tap<T, P>(thread, a, plan, tile, r * kLdcnThreads + thread.index(), shared, sums);
    thread.barrier();
    begin_bins(thread, shared);
    thread.barrier();
    DKIC_UNROLL(8)
    for (int r = 0; r < kRounds; ++r) {
      if (taps[r].bin == kNoBin) continue;
      const unsigned to = shared.bins[taps[r].bin] + taps[r].rank;
      shared.weights[to] = taps[r].weights;
      shared.position[to] = static_cast<unsigned char>((r * kLdcnThreads + thread.index()) / kScatterTaps);
    }
    thread.barrier();
    sum_columns(thread, a, plan, tile, shared, sums);
  }
}

}  // namespace dkic::gpu
