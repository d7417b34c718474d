// The instruction set of the kernels that run: the best one that this machine supports, or the value of the environment variable
// DKIC_CPU_CAPABILITY (default, avx2, avx512).
#pragma once

namespace dkic {

enum class CpuCapability { baseline, avx2, avx512 };

// Selected at the first call. Throws std::runtime_error, with a message for users, if the machine does not support the value.
CpuCapability cpu_capability();

// The variant of a kernel to run. DKIC_CHOSEN(ldcn_kernel) calls it with the variants in the namespaces of setup.py's flags.
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
