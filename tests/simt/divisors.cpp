// Prints the first wrong quotient of Divisor (csrc/cuda/ldcn_cuda_warp_plan.h) and exits with 1, or exits with 0.
#include <cstdio>

#include "cuda/ldcn_cuda_warp_plan.h"

int main() {
  constexpr unsigned kEnd = 1u << 31;
  for (int64_t d = 1; d < kEnd; d = d < 3000 ? d + 1 : d + d / 7 + d % 11) {
    const dkic::gpu::Divisor divisor = dkic::gpu::make_divisor(d);
    const auto is_right = [&](int64_t v) {
      if (v < 0 || v >= kEnd || divisor.quotient(unsigned(v)) == unsigned(v) / unsigned(d)) return true;
      std::printf("%lld / %lld\n", (long long)(v), (long long)(d));
      return false;
    };
    const int64_t most = (kEnd - 1) / d;
    for (int64_t i = 0; i <= most; i = i < 50 ? i + 1 : i + most / 40 + 1)
      for (int64_t v : {i * d - 1, i * d, i * d + 1, (most - i) * d - 1, (most - i) * d, int64_t(kEnd) - 1 - i})
        if (!is_right(v)) return 1;
  }
}
