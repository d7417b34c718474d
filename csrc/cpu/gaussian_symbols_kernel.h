// Interface between gaussian_symbols_cpu.cpp (torch) and gaussian_symbols_kernel.cpp (compiled once per instruction set,
// torch-free).
#pragma once
#include "cpu/cpu_capability.h"
#include "cpu/traversal.h"

namespace dkic {

// The interval of a positive double in a sorted list of edges, found by its first bits: the exponent and three bits of the
// mantissa name a bucket, no wider than a factor of 9/8, with at most one edge in it.
struct ScaleBuckets {
  static constexpr int kMost = 1024, kShift = 49;
  int64_t first, count;  // of the doubles' first bits
  double edge[kMost];    // the bucket's, else infinity
  uint8_t below[kMost];  // how many edges lie below the bucket
};

struct GaussianSymbolsArguments {
  Traversal traversal;
  bool is_double;
  StridedOperand y, scale, mean;
  const ScaleBuckets* buckets;
  int32_t* symbols;  // results in the order of the traversal
  uint8_t* index;
};

struct GaussianSymbolsKernel {
  // Chunks [first, last) of batch * chunks_of_sample(traversal). False where a symbol is no int32 or a scale is NaN.
  bool (*run)(const GaussianSymbolsArguments&, int64_t first, int64_t last);
};

DKIC_DECLARE_KERNEL(GaussianSymbolsKernel, gaussian_symbols_kernel)

}  // namespace dkic
