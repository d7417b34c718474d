// Kernel launches of ldcn: the kernels of each op and their grid sizes. The launcher is CudaLauncher, or the emulator's in tests.
#pragma once
#include "cuda/ldcn_cuda_fixed.cuh"
#include "cuda/ldcn_cuda_warp_forward.cuh"
#include "cuda/ldcn_cuda_warp_samples.cuh"
#include "cuda/ldcn_cuda_window_scatter.cuh"

namespace dkic::gpu {

// ---- Kernel bodies as functors ----

// kBlocks: minimum resident blocks per multiprocessor with 65,536 registers: 4 blocks allow 64 registers per thread, 3 allow 80,
// 2 allow 128.
template <int Blocks>
struct LdcnBody {
  static constexpr int kThreads = kLdcnThreads, kBlocks = Blocks;
};

template <class T, int V>
struct LdcnForward : LdcnBody<4> {
  static constexpr const char* kName = "ldcn_forward";
  LdcnArguments a;
  LdcnPlan plan;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_forward<T, V>(thread, a, plan);
  }
};

template <class T, class P, int kSide, int kTeam>
struct LdcnWarpForward : LdcnBody<3> {
  static constexpr const char* kName = "ldcn_warp_forward";
  LdcnArguments a;
  LdcnWarpPlan plan;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_warp_forward<T, P, kSide, kTeam>(thread, a, plan);
  }
};

template <class T, int V>
struct LdcnBackwardSamples : LdcnBody<3> {
  static constexpr const char* kName = "ldcn_backward_samples";
  LdcnArguments a;
  LdcnPlan plan;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_backward_samples<T, V>(thread, a, plan);
  }
};

template <class T, class P, int kSide, int kTeam>
struct LdcnWarpSamples : LdcnBody<kSide == 3 ? 3 : 2> {  // with 80 registers, 5 x 5 taps spill a few values
  static constexpr const char* kName = "ldcn_warp_samples";
  LdcnArguments a;
  LdcnWarpPlan plan;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_warp_samples<T, P, kSide, kTeam>(thread, a, plan);
  }
};

template <class T>
struct LdcnBackwardX : LdcnBody<3> {
  static constexpr const char* kName = "ldcn_backward_x";
  LdcnArguments a;
  LdcnPlan plan;
  typename SumOf<T>::type* sums;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_backward_x<T>(thread, a, plan, sums);
  }
};

template <class T, class P, int kQuads>
struct LdcnWindowScatter : LdcnBody<2> {
  static constexpr const char* kName = "ldcn_window_scatter";
  LdcnArguments a;
  LdcnWarpPlan plan;
  float* sums;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_window_scatter<T, P, kQuads>(thread, a, plan, sums);
  }
};

template <class T>
struct LdcnRound : LdcnBody<4> {
  static constexpr const char* kName = "ldcn_round";
  const float* sums;
  int64_t count;
  T* to;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_round<T>(thread, sums, count, to);
  }
};

template <class A>
struct LdcnLargest : LdcnBody<4> {
  static constexpr const char* kName = "ldcn_largest";
  Strided t;
  int64_t n, c, h, w;
  unsigned* largest;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_largest<A>(thread, t, n, c, h, w, largest);
  }
};

template <class T>
struct LdcnBackwardXFixed : LdcnBody<3> {
  static constexpr const char* kName = "ldcn_backward_x_fixed";
  LdcnArguments a;
  LdcnPlan plan;
  FixedGradient<T> to;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_backward_x_fixed<T>(thread, a, plan, to);
  }
};

template <class T>
struct LdcnRoundFixed : LdcnBody<4> {
  static constexpr const char* kName = "ldcn_round_fixed";
  LdcnArguments a;
  FixedGradient<T> to;

  template <class Thread>
  DKIC_DEVICE void operator()(const Thread& thread) const {
    ldcn_round_fixed<T>(thread, a, to);
  }
};

// ---- The launches ----

// Calls f<V>() with V = vector, from ldcn_vector.
template <class T, class F>
void with_vector(int vector, const F& f) {
  if constexpr (sizeof(T) == 2)
    if (vector == 8) return f.template operator()<8>();
  if constexpr (sizeof(T) <= 4)
    if (vector == 4) return f.template operator()<4>();
  if (vector == 2) return f.template operator()<2>();
  f.template operator()<1>();
}

// Calls f<P, kSide, kTeam>() with the parameters of the plan; P: the type of offset and mask.
template <class T, class F>
void with_warp_kernel(const LdcnWarpPlan& plan, const F& f) {
  const auto with_team = [&]<class P, int kSide>() {
    if (plan.team == 2) return f.template operator()<P, kSide, 2>();
    if (plan.team == 4) return f.template operator()<P, kSide, 4>();
    f.template operator()<P, kSide, 8>();
  };
  const auto with_side = [&]<class P>() {
    if (plan.kernel_side == 3) return with_team.template operator()<P, 3>();
    with_team.template operator()<P, 5>();
  };
  if constexpr (sizeof(T) == 2)
    if (!plan.float_offset) return with_side.template operator()<T>();
  with_side.template operator()<float>();
}

// Blocks for one element per thread, up to the number that fills a GPU; kernels use grid-stride loops.
inline int64_t ldcn_blocks(int64_t count) {
  constexpr int64_t kMost = 4096;
  const int64_t blocks = (count + kLdcnThreads - 1) / kLdcnThreads;
  return blocks < kMost ? blocks : kMost;
}

inline int64_t count_of_x(const LdcnArguments& a) { return a.batch * a.channels * a.height * a.width; }

// Writes a.y.
template <class T, class Launcher>
void launch_ldcn_forward(Launcher&& launch, const LdcnArguments& a) {
  if constexpr (sizeof(T) <= 4) {
    if (const auto plan = ldcn_warp_forward_plan<T>(a)) {
      return with_warp_kernel<T>(*plan, [&]<class P, int kSide, int kTeam>() {
        launch(LdcnWarpForward<T, P, kSide, kTeam>{{}, a, *plan}, plan->tiles);
      });
    }
  }
  with_vector<T>(ldcn_vector(a, a.x, a.y, sizeof(T)), [&]<int V>() {
    const LdcnPlan plan = ldcn_plan(a, V, sizeof(typename SumOf<T>::type));
    launch(LdcnForward<T, V>{{}, a, plan}, plan.tiles, plan.shared_bytes);
  });
}

// Writes a.grad_offset and a.grad_mask.
template <class T, class Launcher>
void launch_ldcn_backward_samples(Launcher&& launch, const LdcnArguments& a) {
  if constexpr (sizeof(T) <= 4) {
    if (const auto plan = ldcn_warp_samples_plan<T>(a)) {
      return with_warp_kernel<T>(*plan, [&]<class P, int kSide, int kTeam>() {
        launch(LdcnWarpSamples<T, P, kSide, kTeam>{{}, a, *plan}, plan->tiles);
      });
    }
  }
  with_vector<T>(ldcn_vector(a, a.grad_y, nullptr, sizeof(T)), [&]<int V>() {
    const LdcnPlan plan = ldcn_plan(a, V, sizeof(typename SumOf<T>::type));
    launch(LdcnBackwardSamples<T, V>{{}, a, plan}, plan.tiles, plan.shared_bytes);
  });
}

// Atomics bypass the L1 cache, which is the reason for compact tiles. So tiles are 8 columns wide here: rows of offset and mask
// in NCHW are then read in whole sectors of 8 floats.
inline LdcnPlan ldcn_scatter_plan(const LdcnArguments& a, int sum_size) { return ldcn_plan(a, 1, sum_size, 8); }

// Launches the window kernel if it supports the problem; returns whether it does.
template <class T, class Launcher>
bool launch_ldcn_window_scatter(Launcher&& launch, const LdcnArguments& a, float* sums) {
  const auto plan = ldcn_window_plan<T>(a);
  if (!plan) return false;
  const auto with_offset = [&]<class P>() {
    const auto run = [&]<int kQuads>() {
      launch(LdcnWindowScatter<T, P, kQuads>{{}, a, *plan, sums}, plan->tiles, sizeof(ScatterShared<kQuads>));
    };
    if (plan->group_vectors == 4) return run.template operator()<4>();
    if (plan->group_vectors == 6) return run.template operator()<6>();
    run.template operator()<8>();
  };
  if constexpr (sizeof(T) == 2)
    if (!plan->float_offset) return with_offset.template operator()<T>(), true;
  return with_offset.template operator()<float>(), true;
}

// Accumulates into sums, initialized to 0; for half types, rounds them to a.grad_x.
template <class T, class Launcher>
void launch_ldcn_backward_x(Launcher&& launch, const LdcnArguments& a, typename SumOf<T>::type* sums) {
  bool done = false;
  if constexpr (sizeof(T) <= 4) done = launch_ldcn_window_scatter<T>(launch, a, sums);
  if (!done) {
    const LdcnPlan plan = ldcn_scatter_plan(a, sizeof(typename SumOf<T>::type));
    launch(LdcnBackwardX<T>{{}, a, plan, sums}, plan.tiles, plan.shared_bytes);
  }
  if constexpr (sizeof(T) == 2) {
    launch(LdcnRound<T>{{}, sums, count_of_x(a), static_cast<T*>(a.grad_x)}, ldcn_blocks((count_of_x(a) + 3) / 4));
  }
}

// The sums (for double, two per element of x), the two largest magnitudes and a.grad_x are initialized to 0.
template <class T, class Launcher>
void launch_ldcn_backward_x_fixed(Launcher&& launch, const LdcnArguments& a, long long* sums, unsigned* largest) {
  using A = typename SumOf<T>::type;
  const auto find_largest = [&](const Strided& t, int64_t channels, unsigned* to) {
    const int64_t blocks = ldcn_blocks(a.batch * channels * a.out_height * a.out_width);
    launch(LdcnLargest<A>{{}, t, a.batch, channels, a.out_height, a.out_width, to}, blocks);
  };
  find_largest(a.grad_y, a.channels, &largest[0]);
  if (a.mask.data) find_largest(a.mask, a.groups * a.kernel_h * a.kernel_w, &largest[1]);
  const FixedGradient<T> to{count_of_x(a), sums, static_cast<T*>(a.grad_x), largest};
  const LdcnPlan plan = ldcn_scatter_plan(a, sizeof(A));
  launch(LdcnBackwardXFixed<T>{{}, a, plan, to}, plan.tiles, plan.shared_bytes);
  launch(LdcnRoundFixed<T>{{}, a, to}, ldcn_blocks(count_of_x(a)));
}

}  // namespace dkic::gpu
