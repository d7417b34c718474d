// dkic::ldcn and dkic::ldcn_backward on CUDA: checks that guard memory accesses, outputs, and kernel selection by the type of x.
// Schemas, fake kernels, autograd and error messages for users are in dkic/ops/. The kernel bodies are in ldcn_cuda_*.cuh;
// docs/design/ldcn_cuda.md explains their design.
#include "cuda/ldcn_cuda.h"

#include "common/deform_arguments.h"
#include "cuda/cuda_guard.h"

namespace dkic {
namespace {

template <class T>
constexpr const gpu::LdcnCudaKernel* kKernel = nullptr;
template <>
constexpr const gpu::LdcnCudaKernel* kKernel<float> = &gpu::ldcn_cuda_f32;
template <>
constexpr const gpu::LdcnCudaKernel* kKernel<double> = &gpu::ldcn_cuda_f64;
template <>
constexpr const gpu::LdcnCudaKernel* kKernel<torch::headeronly::Half> = &gpu::ldcn_cuda_f16;
template <>
constexpr const gpu::LdcnCudaKernel* kKernel<torch::headeronly::BFloat16> = &gpu::ldcn_cuda_bf16;

const gpu::LdcnCudaKernel& kernel_for(Scalar type) {
  return *with_scalar<torch::headeronly::Half, torch::headeronly::BFloat16>(type, []<class T>() { return kKernel<T>; });
}

LdcnArguments arguments(const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
                        const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  LdcnArguments a{};
  read_samples(a, "ldcn", x, offset, mask, kernel_size, stride, padding, dilation);
  // Kernels index images, channels and taps with 32 bits, elements with 64 bits.
  constexpr int64_t kMost = int64_t(1) << 30;
  STD_TORCH_CHECK(a.batch < kMost && a.channels < kMost && a.kernel_h * a.kernel_w < kMost && offset.size(1) < kMost,
                  "ldcn: images, channels, taps and channels of offset must each be fewer than 2^30");
  return a;
}

Tensor zeros(const Tensor& like, int64_t count, ScalarType type) {
  return torch::stable::full(std::vector<int64_t>{count}, 0, type, std::nullopt, like.device());
}

Tensor ldcn(const Tensor& x_in, const Tensor& offset, const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  const CudaGuard guard(x_in);
  const Tensor x = channels_adjacent(x_in);
  LdcnArguments a = arguments(x, offset, mask, kernel_size, stride, padding, dilation);
  Tensor y = empty_nhwc(x, a.batch, a.channels, a.out_height, a.out_width, x.scalar_type());
  a.y = y.mutable_data_ptr();
  check_launch(kernel_for(a.x.type).forward(a, guard.stream()), "ldcn");
  return returned(y, x.scalar_type(), x_in);
}

Tensor backward_x(LdcnArguments& a, const Tensor& x, bool deterministic, void* stream) {
  const gpu::LdcnCudaKernel& kernel = kernel_for(a.x.type);
  Tensor grad_x = empty_nhwc(x, a.batch, a.channels, a.height, a.width, x.scalar_type());
  a.grad_x = grad_x.mutable_data_ptr();
  if (deterministic) {
    torch::stable::zero_(grad_x);
    const Tensor sums = zeros(x, x.numel() * (a.x.type == Scalar::f64 ? 2 : 1), ScalarType::Long);
    const Tensor largest = zeros(x, 2, ScalarType::Int);
    const gpu::LdcnSums to{sums.mutable_data_ptr(), static_cast<unsigned*>(largest.mutable_data_ptr())};
    check_launch(kernel.backward_x_fixed(a, to, stream), "ldcn_backward");
  } else if (element_size(x.scalar_type()) == 2) {
    const Tensor sums = zeros(x, x.numel(), ScalarType::Float);
    check_launch(kernel.backward_x(a, {sums.mutable_data_ptr(), nullptr}, stream), "ldcn_backward");
  } else {
    torch::stable::zero_(grad_x);
    check_launch(kernel.backward_x(a, {a.grad_x, nullptr}, stream), "ldcn_backward");
  }
  return grad_x;
}

std::tuple<Tensor, Tensor, Tensor> ldcn_backward(const Tensor& grad_y_in, const Tensor& x_in, const Tensor& offset,
                                                 const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
                                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                                 const std::vector<int64_t>& dilation, bool need_x, bool need_offset,
                                                 bool need_mask, bool deterministic) {
  const CudaGuard guard(x_in);
  const Tensor x = channels_adjacent(x_in), grad_y = channels_adjacent(grad_y_in);
  LdcnArguments a = arguments(x, offset, mask, kernel_size, stride, padding, dilation);
  read_grad_y(a, "ldcn", grad_y, x, a.channels);
  const int64_t k = a.kernel_h * a.kernel_w;
  need_mask = need_mask && mask;

  Tensor grad_x = empty_vector(x, x.scalar_type()), grad_offset = empty_vector(x, offset.scalar_type());
  Tensor grad_mask = empty_vector(x, mask ? mask->scalar_type() : offset.scalar_type());
  if (need_offset) {
    grad_offset = empty_nhwc(x, a.batch, a.groups * k * 2, a.out_height, a.out_width, offset.scalar_type());
    a.grad_offset = grad_offset.mutable_data_ptr();
  }
  if (need_mask) {
    grad_mask = empty_nhwc(x, a.batch, a.groups * k, a.out_height, a.out_width, mask->scalar_type());
    a.grad_mask = grad_mask.mutable_data_ptr();
  }
  if (need_offset || need_mask) check_launch(kernel_for(a.x.type).backward_samples(a, guard.stream()), "ldcn_backward");
  if (need_offset) grad_offset = returned(grad_offset, offset.scalar_type(), offset);
  if (need_mask) grad_mask = returned(grad_mask, mask->scalar_type(), *mask);
  if (need_x) grad_x = returned(backward_x(a, x, deterministic, guard.stream()), x.scalar_type(), x_in);
  return {grad_x, grad_offset, grad_mask};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CUDA, m) {
  m.impl("ldcn", TORCH_BOX(&dkic::ldcn));
  m.impl("ldcn_backward", TORCH_BOX(&dkic::ldcn_backward));
}
