// dkic::requantize on the CPU: checks that guard memory accesses, the output, and division of work among threads.
#include "common/stable_abi.h"
#include "cpu/requantize_kernel.h"

namespace dkic {
namespace {

constexpr int64_t kNumbers = 16384;  // minimum number of elements per thread

Tensor requantize(const Tensor& total, const std::optional<Tensor>& bias, const Tensor& multiplier, int64_t low, int64_t high) {
  STD_TORCH_CHECK(total.dim() == 4 && total.is_cpu() && total.scalar_type() == ScalarType::Float,
                  "requantize: total must be a 4-d float32 tensor on the CPU");
  const auto vector = [&](const Tensor& t, const char* name) {
    STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == total.size(1) && t.is_cpu() && t.scalar_type() == ScalarType::Float,
                    "requantize: ", name, " must be float32 on the CPU, one number a channel");
    return torch::stable::contiguous(t);
  };
  const Tensor from = torch::stable::contiguous(total, MemoryFormat::ChannelsLast), m = vector(multiplier, "multiplier");
  const Tensor b = bias ? vector(*bias, "bias") : m;
  Tensor out = empty_nhwc(total, total.size(0), total.size(1), total.size(2), total.size(3), ScalarType::Float);
  RequantizeArguments a{};
  a.channels = total.size(1);
  a.total = static_cast<const float*>(from.const_data_ptr());
  a.bias = bias ? static_cast<const float*>(b.const_data_ptr()) : nullptr;
  a.multiplier = static_cast<const float*>(m.const_data_ptr());
  a.low = float(low), a.high = float(high);
  a.out = static_cast<float*>(out.mutable_data_ptr());
  const int64_t rows = a.channels ? total.size(0) * total.size(2) * total.size(3) : 0;
  const RequantizeKernel& kernel = DKIC_CHOSEN(requantize_kernel);
  if (rows)
    torch::stable::parallel_for(0, rows, kNumbers / a.channels + 1,
                                [&](int64_t first, int64_t last) { kernel.run(a, first, last); });
  return out;
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) { m.impl("requantize", TORCH_BOX(&dkic::requantize)); }
