#include "cpu/cpu_capability.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace dkic {
namespace {

void need(bool met, const char* what, const char* asked) {
  if (!met) throw std::runtime_error(std::string("DKIC_CPU_CAPABILITY ") + what + " " + asked);
}

CpuCapability choose() {
  const char* asked = std::getenv("DKIC_CPU_CAPABILITY");
#if defined(__x86_64__)
  const bool any = !asked || !*asked, plain = asked && !std::strcmp(asked, "default");
  const bool avx2_asked = asked && !std::strcmp(asked, "avx2"), avx512_asked = asked && !std::strcmp(asked, "avx512");
  need(any || plain || avx2_asked || avx512_asked, "must be default, avx2 or avx512, and is", asked);
  __builtin_cpu_init();
  // Clang 14 can't test for F16C; every CPU with AVX2 has it.
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  need((!avx512_asked || has_avx512) && (!avx2_asked || has_avx2), "must be one that this CPU has, and is", asked);
  if (has_avx512 && (any || avx512_asked)) return CpuCapability::avx512;
  if (has_avx2 && !plain) return CpuCapability::avx2;
#else
  need(!asked || !*asked || !std::strcmp(asked, "default"), "must be default on this kind of CPU, and is", asked);
#endif
  return CpuCapability::baseline;
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability capability = choose();
  return capability;
}

}  // namespace dkic

// For `dkic doctor`: the instruction set that the kernels use, or the error message.
extern "C" __attribute__((visibility("default"))) const char* dkic_cpu_capability() {
  static const std::string answer = [] {
    try {
      constexpr const char* names[] = {"default", "avx2", "avx512"};
      return std::string(names[int(dkic::cpu_capability())]);
    } catch (const std::exception& error) {
      return std::string(error.what());
    }
  }();
  return answer.c_str();
}
