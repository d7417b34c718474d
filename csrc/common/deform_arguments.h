// Arguments of the ops that sample x at learned positions, with the checks that guard memory accesses. The error messages for
// users are in dkic/ops/deform_arguments.py.
#pragma once
#include "common/ldcn_arguments.h"
#include "common/stable_abi.h"

namespace dkic {

inline int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t free = size + 2 * padding - dilation * (kernel - 1) - 1;
  return free < 0 ? 0 : free / stride + 1;
}

// Whether v is two numbers from `least` to below 2^24: positions are exact in float32 up to 2^24, and no product below overflows.
inline bool pair_from(int64_t least, const std::vector<int64_t>& v) {
  return v.size() == 2 && v[0] >= least && v[1] >= least && v[0] < (1 << 24) && v[1] < (1 << 24);
}

// Sets all members of `a` except the results and grad_y. `op` is the prefix of the messages.
inline void read_samples(LdcnArguments& a, const char* op, const Tensor& x, const Tensor& offset,
                         const std::optional<Tensor>& mask, const std::vector<int64_t>& kernel_size,
                         const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                         const std::vector<int64_t>& dilation) {
  STD_TORCH_CHECK(pair_from(1, kernel_size) && pair_from(1, stride) && pair_from(0, padding) && pair_from(1, dilation), op,
                  ": kernel_size, stride and dilation must be two positive integers, padding two integers >= 0, all below 2^24");
  a.x = strided(x, "x", x.device());
  a.offset = strided(offset, "offset", x.device());
  if (mask) a.mask = strided(*mask, "mask", x.device());
  a.batch = x.size(0), a.channels = x.size(1), a.height = x.size(2), a.width = x.size(3);
  a.kernel_h = kernel_size[0], a.kernel_w = kernel_size[1], a.stride_h = stride[0], a.stride_w = stride[1];
  a.padding_h = padding[0], a.padding_w = padding[1], a.dilation_h = dilation[0], a.dilation_w = dilation[1];
  const int64_t k = a.kernel_h * a.kernel_w;
  a.groups = offset.size(1) / (2 * k);
  a.out_height = out_size(a.height, a.kernel_h, a.stride_h, a.padding_h, a.dilation_h);
  a.out_width = out_size(a.width, a.kernel_w, a.stride_w, a.padding_w, a.dilation_w);
  STD_TORCH_CHECK(a.groups > 0 && offset.size(1) == a.groups * k * 2 && a.channels > 0 && a.channels % a.groups == 0 &&
                      offset.size(0) == a.batch && offset.size(2) == a.out_height && offset.size(3) == a.out_width,
                  op, ": the shape of offset does not fit x");
  STD_TORCH_CHECK(!mask || (mask->size(0) == a.batch && mask->size(1) == a.groups * k && mask->size(2) == a.out_height &&
                            mask->size(3) == a.out_width),
                  op, ": the shape of mask does not fit offset");
  // Positions are float32 (exact integers up to 2^24), rows and columns int32.
  STD_TORCH_CHECK(a.height < (1 << 24) && a.width < (1 << 24), op, ": height and width of x must be below 2^24");
}

// Sets grad_y of `a`, the gradient of a result with `channels` channels.
inline void read_grad_y(LdcnArguments& a, const char* op, const Tensor& grad_y, const Tensor& x, int64_t channels) {
  STD_TORCH_CHECK(grad_y.dim() == 4 && grad_y.size(0) == a.batch && grad_y.size(1) == channels &&
                      grad_y.size(2) == a.out_height && grad_y.size(3) == a.out_width && grad_y.scalar_type() == x.scalar_type(),
                  op, "_backward: grad_y must have the shape and dtype of ", op, "'s result");
  a.grad_y = strided(grad_y, "grad_y", x.device());
}

}  // namespace dkic
