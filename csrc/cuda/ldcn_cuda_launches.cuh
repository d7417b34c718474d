// ldcn's launches: which kernels an op runs, one after another, and on how many blocks. A launcher runs them: CudaLauncher, or
// the tests' on the emulator.
#pragma once
#include "cuda/ldcn_cuda_fixed.cuh"
#include "cuda/ldcn_cuda_warp_forward.cuh"
#include "cuda/ldcn_cuda_warp_samples.cuh"
#include "cuda/ldcn_cuda_window_scatter.cuh"

namespace dkic::gpu {

// ---- The bodies as a launcher takes them ----

// kBlocks, those of a multiprocessor of 65,536 registers: 4 leave a thread 64 registers, 3 leave 80, 2 leave 128.
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
struct LdcnWarpSamples : LdcnBody<kSide == 3 ? 3 : 2> {  // 80 registers spill a number or two of 5 x 5 taps
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

// Calls f<V>() for a vector of that many channels, which ldcn_vector chose.
template <class T, class F>
void with_vector(int vector, const F& f) {
  if constexpr (sizeof(T) == 2)
    if (vector == 8) return f.template operator()<8>();
  if constexpr (sizeof(T) <= 4)
    if (vector == 4) return f.template operator()<4>();
  if (vector == 2) return f.template operator()<2>();
  f.template operator()<1>();
}

// Calls f<P, kSide, kTeam>() as the plan has them, P being the type of offset and mask.
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

// Threads that take a number each, but no more blocks than keep a GPU busy: they go round.
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

// Atomics pass the cache in which the samples of a compact tile meet. So a tile may be as wide as a sector of 8 floats, which a
// row of offsets or of the mask in NCHW is then read by.
inline LdcnPlan ldcn_scatter_plan(const LdcnArguments& a, int sum_size) { return ldcn_plan(a, 1, sum_size, 8); }

// Whether a window's kernel takes the problem, and ran.
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

// Adds to sums, which begin at 0; halves are then rounded into a.grad_x.
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

// All of it begins at 0: the sums (twice as many as x has numbers, for double), the two largest magnitudes and a.grad_x.
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
