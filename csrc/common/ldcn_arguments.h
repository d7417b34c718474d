// Arguments of ldcn's kernels on the CPU and the GPU. deform_conv2d uses them for its sizes and positions.
#pragma once
#include "common/strided.h"

namespace dkic {

struct LdcnArguments {
  int64_t batch, channels, height, width;  // of x
  int64_t groups, out_height, out_width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  Strided x;  // channel stride 1
  Strided offset;
  Strided mask;    // data == nullptr: ones
  Strided grad_y;  // backward only; channel stride 1, type of x
  // Results are contiguous NHWC; y and grad_x have x's type. The CPU kernel writes the others in float (double if x is double),
  // the GPU kernel in the types of offset and mask.
  void* y;
  void* grad_x;
  void* grad_offset;
  void* grad_mask;  // nullptr: not wanted
};

}  // namespace dkic
