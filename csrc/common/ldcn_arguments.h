// What a kernel of ldcn is given, on the CPU and on a GPU; sizes and positions are those of deform_conv2d too.
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
  // Results are NHWC without gaps: y and grad_x in x's type. The others the CPU's kernel writes in float (double where x is
  // double), the GPU's in the types of offset and mask.
  void* y;
  void* grad_x;
  void* grad_offset;
  void* grad_mask;  // nullptr: not wanted
};

}  // namespace dkic
