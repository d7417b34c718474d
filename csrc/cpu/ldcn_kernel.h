// Interface between ldcn_cpu.cpp (torch) and ldcn_kernel.cpp (compiled once per instruction set, torch-free).
#pragma once
#include "common/ldcn_arguments.h"
#include "cpu/cpu_capability.h"

namespace dkic {

// Work is divided by shape only, and no two pieces write to the same address, so results do not depend on the number of threads.
struct LdcnKernel {
  // Output rows [first, last) of batch * out_height.
  void (*forward)(const LdcnArguments&, int64_t first, int64_t last);
  // Gradients of offset and mask for the same rows.
  void (*backward_samples)(const LdcnArguments&, int64_t first, int64_t last);
  // Gradient of x for pieces [first, last) of batch * groups * ldcn_channel_blocks(arguments).
  void (*backward_x)(const LdcnArguments&, int64_t first, int64_t last);
};

// The number of channel blocks into which a group's gradient of x is divided: so many that there are at least 16 pieces in total,
// if blocks of 32 channels allow that.
static inline int64_t ldcn_channel_blocks(const LdcnArguments& a) {
  const int64_t depth = a.channels / a.groups, pieces = a.batch * a.groups;
  const int64_t wanted = pieces >= 16 ? 1 : (16 + pieces - 1) / (pieces > 0 ? pieces : 1);
  const int64_t most = depth / 32 > 1 ? depth / 32 : 1;
  return wanted < most ? wanted : most;
}

DKIC_DECLARE_KERNEL(LdcnKernel, ldcn_kernel)

}  // namespace dkic
