// The instruction set whose compilation of each kernel runs: the best one of this machine, or the one that the environment
// variable DKIC_CPU_CAPABILITY names (default, avx2, avx512).
#pragma once

namespace dkic {

enum class CpuCapability { baseline, avx2, avx512 };

// Chosen at the first call and kept. Throws std::runtime_error, with a message for users, if the machine lacks the named one.
CpuCapability cpu_capability();

// The compilation of a kernel to run. DKIC_CHOSEN(ldcn_kernel) calls it with those in the namespaces that setup.py's flags name.
template <class Kernel>
const Kernel& chosen(const Kernel& baseline, const Kernel& avx2, const Kernel& avx512) {
  switch (cpu_capability()) {
    case CpuCapability::avx512:
      return avx512;
    case CpuCapability::avx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace dkic

#if defined(__x86_64__)
#define DKIC_CHOSEN(kernel) ::dkic::chosen(::dkic::baseline::kernel, ::dkic::avx2::kernel, ::dkic::avx512::kernel)
#define DKIC_DECLARE_KERNEL(type, kernel) \
  namespace baseline {                    \
  extern const type kernel;               \
  }                                       \
  namespace avx2 {                        \
  extern const type kernel;               \
  }                                       \
  namespace avx512 {                      \
  extern const type kernel;               \
  }
#else
#define DKIC_CHOSEN(kernel) (::dkic::cpu_capability(), ::dkic::baseline::kernel)
#define DKIC_DECLARE_KERNEL(type, kernel) \
  namespace baseline {                    \
  extern const type kernel;               \
  }
#endif
