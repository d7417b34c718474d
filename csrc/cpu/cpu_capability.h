// Which of a kernel's compilations runs: the best instruction set of this machine, or what DKIC_CPU_CAPABILITY (default, avx2,
// avx512) asks for.
#pragma once

namespace dkic {

enum class CpuCapability { baseline, avx2, avx512 };

// Chosen at the first call and kept. Throws std::runtime_error, a sentence for the user, where the machine can't do what was
// asked for.
CpuCapability cpu_capability();

// Of a kernel's three compilations the one to run. DKIC_CHOSEN(ldcn_kernel) spells it for namespaces named like setup.py's flags.
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
