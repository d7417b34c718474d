// dkic::ldcn and dkic::ldcn_backward on the CPU: checks that guard memory accesses, outputs, and division of work among threads.
// Schemas, fake kernels, autograd and error messages for users are in dkic/ops/; the arithmetic is in ldcn_kernel.cpp.
#include "common/deform_arguments.h"
#include "common/stable_abi.h"
#include "cpu/ldcn_kernel.h"

namespace dkic {
namespace {

LdcnArguments arguments(const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
                        const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  LdcnArguments a{};
  read_samples(a, "ldcn", x, offset, mask, kernel_size, stride, padding, dilation);
  return a;
}

Tensor ldcn(const Tensor& x_in, const Tensor& offset, const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
            const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  const Tensor x = channels_adjacent(x_in);
  LdcnArguments a = arguments(x, offset, mask, kernel_size, stride, padding, dilation);
  Tensor y = empty_nhwc(x, a.batch, a.channels, a.out_height, a.out_width, x.scalar_type());
  a.y = y.mutable_data_ptr();
  const LdcnKernel& kernel = DKIC_CHOSEN(ldcn_kernel);
  if (a.out_width > 0)
    torch::stable::parallel_for(0, a.batch * a.out_height, 1,
                                [&](int64_t first, int64_t last) { kernel.forward(a, first, last); });
  return returned(y, x.scalar_type(), x_in);
}

std::tuple<Tensor, Tensor, Tensor> ldcn_backward(const Tensor& grad_y_in, const Tensor& x_in, const Tensor& offset,
                                                 const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
                                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                                 const std::vector<int64_t>& dilation, bool need_x, bool need_offset,
                                                 bool need_mask, bool /*deterministic: it always is here*/) {
  const Tensor x = channels_adjacent(x_in), grad_y = channels_adjacent(grad_y_in);
  LdcnArguments a = arguments(x, offset, mask, kernel_size, stride, padding, dilation);
  read_grad_y(a, "ldcn", grad_y, x, a.channels);
  const ScalarType sum_type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t k = a.kernel_h * a.kernel_w;
  const LdcnKernel& kernel = DKIC_CHOSEN(ldcn_kernel);
  need_mask = need_mask && mask;

  Tensor grad_x = empty_vector(x, x.scalar_type()), grad_offset = empty_vector(x, offset.scalar_type());
  Tensor grad_mask = empty_vector(x, mask ? mask->scalar_type() : offset.scalar_type());
  if (need_offset || need_mask) {
    Tensor offset_sum, mask_sum;
    if (need_offset) {
      offset_sum = empty_nhwc(x, a.batch, a.groups * k * 2, a.out_height, a.out_width, sum_type);
      a.grad_offset = offset_sum.mutable_data_ptr();
    }
    if (need_mask) {
      mask_sum = empty_nhwc(x, a.batch, a.groups * k, a.out_height, a.out_width, sum_type);
      a.grad_mask = mask_sum.mutable_data_ptr();
    }
    if (a.out_width > 0)
      torch::stable::parallel_for(0, a.batch * a.out_height, 1,
                                  [&](int64_t first, int64_t last) { kernel.backward_samples(a, first, last); });
    if (need_offset) grad_offset = returned(offset_sum, offset.scalar_type(), offset);
    if (need_mask) grad_mask = returned(mask_sum, mask->scalar_type(), *mask);
  }
  if (need_x) {
    grad_x = empty_nhwc(x, a.batch, a.channels, a.height, a.width, x.scalar_type());
    a.grad_x = grad_x.mutable_data_ptr();
    torch::stable::parallel_for(0, a.batch * a.groups * ldcn_channel_blocks(a), 1,
                                [&](int64_t first, int64_t last) { kernel.backward_x(a, first, last); });
    grad_x = returned(grad_x, x.scalar_type(), x_in);
  }
  return {grad_x, grad_offset, grad_mask};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("ldcn", TORCH_BOX(&dkic::ldcn));
  m.impl("ldcn_backward", TORCH_BOX(&dkic::ldcn_backward));
}
