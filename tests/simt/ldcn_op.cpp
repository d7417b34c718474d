// The kernels of csrc/cuda/ldcn_cuda.h on the emulator. csrc/cuda/ldcn_cuda.cpp is linked with them instead of the kernels from
// nvcc, so that the host code of the op runs on CPU tensors, without the dispatcher. This file also replaces the functions of
// torch and CUDA that it calls.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "cuda/ldcn_cuda.h"
#include "cuda/ldcn_cuda_launches.cuh"
#include "emulator.h"

namespace {

int fail_next = 0;  // error code of the next launch
int* const stream = &fail_next;

}  // namespace

// ---- Replacements of torch's functions: the device is the CPU ----

extern "C" {

__attribute__((visibility("default"))) void dkic_fail_next(int error) { fail_next = error; }

int32_t aoti_torch_device_type_cuda() { return aoti_torch_device_type_cpu(); }
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** current) {
  *current = stream;
  return 0;
}
AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** message) {
  *message = strdup(("CUDA error number " + std::to_string(error)).c_str());
  return 0;
}
void torch_c10_cuda_free_error_msg(char* message) { std::free(message); }

}  // extern "C"

namespace dkic::gpu {
namespace {

template <class F>
int launched(void* in, const F& f) {
  if (in != stream) throw simt::Error("a launch in another stream than the current one");
  simt::Emulator launch{simt::Order::shuffled, 3};
  if (fail_next == 0) f(launch);
  return std::exchange(fail_next, 0);
}

template <class T>
LdcnCudaKernel emulated() {
  return {
      [](const LdcnArguments& a, void* in) { return launched(in, [&](auto& launch) { launch_ldcn_forward<T>(launch, a); }); },
      [](const LdcnArguments& a, void* in) {
        return launched(in, [&](auto& launch) { launch_ldcn_backward_samples<T>(launch, a); });
      },
      [](const LdcnArguments& a, const LdcnSums& sums, void* in) {
        using A = typename SumOf<T>::type;
        return launched(in, [&](auto& launch) { launch_ldcn_backward_x<T>(launch, a, static_cast<A*>(sums.values)); });
      },
      [](const LdcnArguments& a, const LdcnSums& sums, void* in) {
        auto* integers = static_cast<long long*>(sums.values);
        return launched(in, [&](auto& launch) { launch_ldcn_backward_x_fixed<T>(launch, a, integers, sums.largest); });
      },
  };
}

}  // namespace

const LdcnCudaKernel ldcn_cuda_f32 = emulated<float>(), ldcn_cuda_f64 = emulated<double>();
const LdcnCudaKernel ldcn_cuda_f16 = emulated<half>(), ldcn_cuda_bf16 = emulated<bfloat16>();

}  // namespace dkic::gpu
