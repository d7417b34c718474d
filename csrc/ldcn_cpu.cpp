// dkic::ldcn and dkic::ldcn_backward on the CPU: checks that guard memory, outputs, and cutting the work for threads.
// Schemas, fake kernels, autograd and the user's error messages are in dkic/ops/; the arithmetic is in ldcn_kernel.cpp.
#include "ldcn_kernel.h"
#include "stable_abi.h"

namespace dkic {
namespace {

int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t free = size + 2 * padding - dilation * (kernel - 1) - 1;
  return free < 0 ? 0 : free / stride + 1;
}

// Whether v is two numbers that a position, exact in float32 up to 2^24, can be made of; so no product below overflows.
bool pair_from(int64_t least, const std::vector<int64_t>& v) {
  return v.size() == 2 && v[0] >= least && v[1] >= least && v[0] < (1 << 24) && v[1] < (1 << 24);
}

LdcnArguments arguments(const Tensor& x, const Tensor& offset, const std::optional<Tensor>& mask,
                        const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                        const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  LdcnArguments a{};
  STD_TORCH_CHECK(
      pair_from(1, kernel_size) && pair_from(1, stride) && pair_from(0, padding) && pair_from(1, dilation),
      "ldcn: kernel_size, stride and dilation must be two positive integers, padding two integers >= 0, all below 2^24");
  a.x = strided(x, "x");
  a.offset = strided(offset, "offset");
  if (mask) a.mask = strided(*mask, "mask");
  a.batch = x.size(0), a.channels = x.size(1), a.height = x.size(2), a.width = x.size(3);
  a.kernel_h = kernel_size[0], a.kernel_w = kernel_size[1], a.stride_h = stride[0], a.stride_w = stride[1];
  a.padding_h = padding[0], a.padding_w = padding[1], a.dilation_h = dilation[0], a.dilation_w = dilation[1];
  const int64_t k = a.kernel_h * a.kernel_w;
  a.groups = offset.size(1) / (2 * k);
  a.out_height = out_size(a.height, a.kernel_h, a.stride_h, a.padding_h, a.dilation_h);
  a.out_width = out_size(a.width, a.kernel_w, a.stride_w, a.padding_w, a.dilation_w);
  STD_TORCH_CHECK(a.groups > 0 && offset.size(1) == a.groups * k * 2 && a.channels > 0 && a.channels % a.groups == 0 &&
                      offset.size(0) == a.batch && offset.size(2) == a.out_height && offset.size(3) == a.out_width,
                  "ldcn: the shape of offset does not fit x");
  STD_TORCH_CHECK(!mask || (mask->size(0) == a.batch && mask->size(1) == a.groups * k && mask->size(2) == a.out_height &&
                            mask->size(3) == a.out_width),
                  "ldcn: the shape of mask does not fit offset");
  // Positions are float32 (exact integers up to 2^24), rows and columns int32.
  STD_TORCH_CHECK(a.height < (1 << 24) && a.width < (1 << 24), "ldcn: height and width of x must be below 2^24");
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
  return y;
}

std::tuple<Tensor, Tensor, Tensor> ldcn_backward(const Tensor& grad_y_in, const Tensor& x_in, const Tensor& offset,
                                                 const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
                                                 const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                                 const std::vector<int64_t>& dilation, bool need_x, bool need_offset,
                                                 bool need_mask, bool /*deterministic: it always is here*/) {
  const Tensor x = channels_adjacent(x_in), grad_y = channels_adjacent(grad_y_in);
  LdcnArguments a = arguments(x, offset, mask, kernel_size, stride, padding, dilation);
  STD_TORCH_CHECK(grad_y.dim() == 4 && grad_y.size(0) == a.batch && grad_y.size(1) == a.channels &&
                      grad_y.size(2) == a.out_height && grad_y.size(3) == a.out_width && grad_y.scalar_type() == x.scalar_type(),
                  "ldcn_backward: grad_y must have the shape and dtype of ldcn's result");
  a.grad_y = strided(grad_y, "grad_y");
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
    if (need_offset) grad_offset = torch::stable::to(offset_sum, offset.scalar_type());
    if (need_mask) grad_mask = torch::stable::to(mask_sum, mask->scalar_type());
  }
  if (need_x) {
    Tensor x_sum = empty_nhwc(x, a.batch, a.channels, a.height, a.width, sum_type);
    torch::stable::zero_(x_sum);
    a.grad_x = x_sum.mutable_data_ptr();
    torch::stable::parallel_for(0, a.batch * a.groups * ldcn_channel_blocks(a), 1,
                                [&](int64_t first, int64_t last) { kernel.backward_x(a, first, last); });
    grad_x = torch::stable::to(x_sum, x.scalar_type());
  }
  return {grad_x, grad_offset, grad_mask};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("ldcn", TORCH_BOX(&dkic::ldcn));
  m.impl("ldcn_backward", TORCH_BOX(&dkic::ldcn_backward));
}
