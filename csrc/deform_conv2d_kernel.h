// What deform_conv2d_cpu.cpp (torch) and deform_conv2d_kernel.cpp (compiled once per instruction set, torch-free) say to each
// other.
#pragma once
#include "ldcn_kernel.h"

namespace dkic {

// The samples are ldcn's; `groups` are the offset's. x may have any strides here, with channels side by side for speed.
struct DeformConv2dArguments : LdcnArguments {
  int64_t out_channels, weight_groups;
  const void* bias;  // [out_channels], float (double where x is double); nullptr: none

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t out_area() const { return out_height * out_width; }
  int64_t column_length() const { return taps() * channels; }
  // How many pieces the gradient of x is cut into in every image: a group's channels, in blocks of at least 32 where that
  // gives 8.
  int64_t channel_blocks() const {
    const int64_t wanted = groups >= 8 ? 1 : (8 + groups - 1) / groups, most = channels / groups / 32;
    return most < 1 ? 1 : wanted < most ? wanted : most;
  }
};

// A position is an output pixel, counted over batch, rows and columns; an argument `first, last` is the range of them to work on.
// `columns` holds, for each position of the range, its samples times mask: [weight groups][taps][channels of the group], so that
// y's channels of a weight group are one matrix product. `rows` are y or grad_y, [positions][out_channels]. All are float (double
// where x is double), whatever is sampled. No two pieces of work write one address.
struct DeformConv2dKernel {
  void (*columns)(const DeformConv2dArguments&, int64_t first, int64_t last, void* columns);
  // y = rows + bias
  void (*write_rows)(const DeformConv2dArguments&, int64_t first, int64_t last, const void* rows);
  // rows = grad_y, of any strides
  void (*read_rows)(const DeformConv2dArguments&, int64_t first, int64_t last, void* rows);
  // grad_offset and grad_mask, in the types of offset and mask; and the columns once more, unless nullptr.
  void (*backward_samples)(const DeformConv2dArguments&, int64_t first, int64_t last, const void* grad_columns, void* columns);
  // Adds to grad_x, piece (image, group, block of channels) of those images that [first, last) touches.
  void (*backward_x)(const DeformConv2dArguments&, int64_t first, int64_t last, const void* grad_columns, int64_t piece);
};

DKIC_DECLARE_KERNEL(DeformConv2dKernel, deform_conv2d_kernel)

}  // namespace dkic
