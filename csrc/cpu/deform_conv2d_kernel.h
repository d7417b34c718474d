// Interface between deform_conv2d_cpu.cpp (torch) and deform_conv2d_kernel.cpp (compiled once per instruction set, torch-free).
#pragma once
#include "common/ldcn_arguments.h"
#include "cpu/cpu_capability.h"

namespace dkic {

// Elements from one index to the next.
struct Steps {
  int64_t n, c, h, w;
};

// Samples are those of ldcn; `groups` are offset groups. x, y and the gradients of offset and mask may have any strides; adjacent
// channels of x are fastest.
struct DeformConv2dArguments : LdcnArguments {
  int64_t out_channels, weight_groups;
  int64_t run;       // channels that share an offset group and a weight group: their greatest common divisor
  const void* bias;  // [out_channels], float (double where x is double); nullptr: none
  Steps y_steps, grad_offset_steps, grad_mask_steps;
};

// A range of a block's work: output pixels [first, last), counted image by image in strips of columns, and channels [begin, end),
// whole runs. For each pixel, `columns` contains its samples times mask as [run of channels][tap][channel of the run], so that
// y's channels of a weight group are one matrix product. `rows` are y or grad_y, [pixels][out_channels]. All are float (double if
// x is double), for any type of x.
struct DeformConv2dRange {
  int64_t first, last, begin, end;
};

struct DeformConv2dKernel {
  void (*columns)(const DeformConv2dArguments&, DeformConv2dRange, void* columns);
  // y = rows + bias
  void (*write_rows)(const DeformConv2dArguments&, int64_t first, int64_t last, const void* rows);
  // rows = grad_y, of any strides
  void (*read_rows)(const DeformConv2dArguments&, int64_t first, int64_t last, void* rows);
  // Adds `count` rows to sums [out_channels], which is always double, since the sums are long.
  void (*sum_rows)(const DeformConv2dArguments&, int64_t count, const void* rows, double* sums);
  // For channels of one offset group: their part of the gradients of offset and mask, `parts` [pixels][tap][y, x, mask], with a
  // stride of `step` elements between pixels; and the columns again, unless nullptr.
  void (*backward_samples)(const DeformConv2dArguments&, DeformConv2dRange, const void* grad_columns, void* columns, void* parts,
                           int64_t step);
  // grad_offset and grad_mask, in the types of offset and mask: sums of the parts [pixels][groups][parts_a_group][tap][y, x,
  // mask].
  void (*write_sample_gradients)(const DeformConv2dArguments&, int64_t first, int64_t last, const void* parts,
                                 int64_t parts_a_group);
  // Adds to grad_x, for channels of one offset group.
  void (*backward_x)(const DeformConv2dArguments&, DeformConv2dRange, const void* grad_columns);
};

DKIC_DECLARE_KERNEL(DeformConv2dKernel, deform_conv2d_kernel)

}  // namespace dkic
