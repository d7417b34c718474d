// Device and stream of an op's CUDA kernels, with torch's stable ABI (USE_CUDA): the tensors' device and its current stream.
#pragma once
#include <torch/csrc/stable/accelerator.h>

#include <string>

#include "common/stable_abi.h"

namespace dkic {

// Makes the device of `t` the current device in its scope. Allocations in that scope are ordered by the same stream.
class CudaGuard {
 public:
  explicit CudaGuard(const Tensor& t) : device_(index_of(t)), guard_(device_) {}

  void* stream() const {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    return stream;
  }

 private:
  static int32_t index_of(const Tensor& t) {
    STD_TORCH_CHECK(t.is_cuda(), "all tensors must be on the same GPU");
    return t.get_device_index();
  }

  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

// Throws an exception with torch's message if a launch failed.
inline void check_launch(int error, const char* op) {
  if (error == 0) return;
  char* message = nullptr;
  torch_c10_cuda_check_msg(error, __FILE__, op, __LINE__, true, &message);
  std::string text = message ? message : "CUDA error " + std::to_string(error);
  if (message) torch_c10_cuda_free_error_msg(message);
  STD_TORCH_CHECK(false, op, ": ", text);
}

}  // namespace dkic
