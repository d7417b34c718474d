// dkic::quantized_conv2d on the CPU: checks that guard memory accesses, the output, and division of work among threads.
#include <algorithm>

#include "common/stable_abi.h"
#include "cpu/quantized_conv2d_kernel.h"

namespace dkic {
namespace {

constexpr int64_t kProducts = 1 << 18;   // minimum number of products per thread
constexpr int64_t kBandBytes = 1 << 20;  // of x as int16: fits into a second-level cache

Tensor quantized_conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& multiplier, int64_t stride,
                        int64_t padding, int64_t low, int64_t high) {
  const auto on_cpu = [](const Tensor& t, int64_t dim, ScalarType type) {
    return t.is_cpu() && t.dim() == dim && t.scalar_type() == type;
  };
  STD_TORCH_CHECK(on_cpu(x, 4, ScalarType::Float), "quantized_conv2d: x must be a 4-d float32 tensor on the CPU");
  STD_TORCH_CHECK(on_cpu(weight, 6, ScalarType::Short) && weight.is_contiguous() && weight.size(1) == weight.size(2) &&
                      weight.size(3) == (x.size(1) + 1) / 2 && weight.size(4) == kGroup && weight.size(5) == 2,
                  "quantized_conv2d: weight must be int16 [groups, k, k, pairs of x's channels, 16, 2] on the CPU");
  STD_TORCH_CHECK(on_cpu(bias, 1, ScalarType::Int) && on_cpu(multiplier, 1, ScalarType::Float) &&
                      bias.size(0) == multiplier.size(0) && (bias.size(0) + kGroup - 1) / kGroup == weight.size(0),
                  "quantized_conv2d: bias must be int32 and multiplier float32, one number for each of weight's channels");
  const int64_t k = weight.size(1);
  STD_TORCH_CHECK(x.size(1) > 0 && stride > 0 && padding >= 0 && padding < k,
                  "quantized_conv2d: x must have channels, stride be above 0, and padding 0 to k - 1");
  const int64_t height = x.size(2) + 2 * padding, width = x.size(3) + 2 * padding;
  STD_TORCH_CHECK(height >= k && width >= k, "quantized_conv2d: x must be no smaller than the window");
  const Tensor b = torch::stable::contiguous(bias), m = torch::stable::contiguous(multiplier);
  const int64_t n = x.size(0), out = bias.size(0), out_height = (height - k) / stride + 1, out_width = (width - k) / stride + 1;
  Tensor y = empty_nhwc(x, n, out, out_height, out_width, ScalarType::Float);
  QuantizedConv2dArguments a{};
  a.x = static_cast<const float*>(x.const_data_ptr());
  a.stride_n = x.stride(0), a.stride_c = x.stride(1), a.stride_h = x.stride(2), a.stride_w = x.stride(3);
  a.channels = x.size(1), a.height = x.size(2), a.width = x.size(3), a.padding = padding, a.pairs = weight.size(3);
  a.weight = static_cast<const int16_t*>(weight.const_data_ptr());
  a.bias = static_cast<const int32_t*>(b.const_data_ptr());
  a.multiplier = static_cast<const float*>(m.const_data_ptr());
  a.k = k, a.stride = stride, a.out = out, a.out_height = out_height, a.out_width = out_width;
  a.low = float(low), a.high = float(high);
  a.y = static_cast<float*>(y.mutable_data_ptr());
  const QuantizedConv2dKernel& kernel = DKIC_CHOSEN(quantized_conv2d_kernel);
  const int64_t row = width * a.pairs * 2, products = out_width * k * k * x.size(1) * out + 1;
  const int64_t most = std::max<int64_t>(1, (kBandBytes / int64_t(row * sizeof(int16_t)) - k) / stride + 1);
  torch::stable::parallel_for(0, n * out_height, kProducts / products + 1, [&](int64_t first, int64_t last) {
    std::vector<int16_t> numbers;
    for (int64_t at = first; at < last;) {
      const int64_t here = at % out_height, rows = std::min({most, last - at, out_height - here});
      numbers.resize(std::max(numbers.size(), size_t(((rows - 1) * stride + k) * row)));
      const QuantizedConv2dBand band{at / out_height, here, rows, numbers.data()};
      kernel.pad(a, band);
      kernel.run(a, band);
      at += rows;
    }
  });
  return y;
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) { m.impl("quantized_conv2d", TORCH_BOX(&dkic::quantized_conv2d)); }
