// dkic::deform_conv2d and dkic::deform_conv2d_backward on the CPU: checks that guard memory accesses, outputs, matrix products,
// and division of work among threads. Schemas, fake kernels, autograd and error messages for users are in dkic/ops/; the samples
// are in deform_conv2d_kernel.cpp.
//
// Samples of a block of positions are written to columns, small enough for the second-level cache, and multiplied there. Work is
// divided by shape only, and each product runs on one thread, so results do not depend on the number of threads.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/deform_arguments.h"
#include "common/stable_abi.h"
#include "cpu/deform_conv2d_kernel.h"

namespace dkic {
namespace {

// In addition to arguments, results and copies of the weight, the op uses at most kCopy + kWorkspace of memory, or the columns of
// 2 kRows positions if these are larger.
// Columns and rows of a block, in the second-level cache. 1x192x128x128, 192 outputs, one thread of Sapphire Rapids: 256 KB 88
// ms, 512 KB 86, 768 KB 96, 3 MB 94.
constexpr int64_t kBlock = 512 << 10;
constexpr int64_t kWorkspace = 12 << 20;
constexpr int64_t kCopy = 16 << 20;

// Sums of a product are computed in pieces of kSum numbers (a quarter for float64), its pixels are a multiple of kRows: see
// `product`.
constexpr int64_t kSum = 768;
constexpr int64_t kRows = 4;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t whole_rows(int64_t pixels) { return divide_up(pixels, kRows) * kRows; }

// Number of parts, by channels, into which backward divides the work of an offset group: about 8 parts over all groups.
int64_t wanted_parts(const DeformConv2dArguments& a) { return divide_up(8, a.groups); }

DeformConv2dArguments arguments(const Tensor& x, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                                const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                const std::vector<int64_t>& dilation) {
  DeformConv2dArguments a{};
  STD_TORCH_CHECK(weight.dim() == 4 && weight.is_cpu() && weight.scalar_type() == x.scalar_type(),
                  "deform_conv2d: weight must be a 4-d tensor on the CPU, of input's dtype");
  read_samples(a, "deform_conv2d", x, offset, mask, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const int64_t depth = weight.size(1);
  STD_TORCH_CHECK(depth > 0 && a.channels % depth == 0 && weight.size(0) % (a.channels / depth) == 0,
                  "deform_conv2d: the shape of weight does not fit input");
  a.out_channels = weight.size(0), a.weight_groups = a.channels / depth;
  a.run = std::gcd(depth, a.channels / a.groups);
  // With few groups there is little to divide in backward: then runs are split, but not below 16 channels.
  int64_t cuts = 1;
  for (int64_t more = 2; cuts < wanted_parts(a) && a.run / more >= 16; ++more)
    if (a.run % more == 0) cuts = more;
  a.run /= cuts;
  return a;
}

// x in the layout that the kernel reads fastest: with adjacent channels, unless a copy would be large.
Tensor to_sample(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "deform_conv2d: input must have 4 dimensions");
  const bool copy = x.numel() * element_size(x.scalar_type()) <= kCopy;
  return copy ? channels_adjacent(x) : x;
}

Steps steps_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

ScalarType sum_type(const Tensor& x) { return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

// In the order of columns: [out_channels][runs of a weight group][tap][channels of a run].
Tensor in_column_order(const DeformConv2dArguments& a, const Tensor& weight) {
  const std::vector<int64_t> shape{a.out_channels, weight.size(1) / a.run, a.run, a.kernel_h * a.kernel_w};
  const Tensor sum = torch::stable::to(weight, sum_type(weight));
  return torch::stable::contiguous(torch::stable::transpose(torch::stable::reshape(sum, shape), 2, 3));
}
Tensor from_column_order(const Tensor& grad_weight, const Tensor& weight) {
  const std::vector<int64_t> shape{weight.size(0), weight.size(1), weight.size(2), weight.size(3)};
  const Tensor rounded = torch::stable::to(torch::stable::transpose(grad_weight, 2, 3), weight.scalar_type());
  return torch::stable::reshape(torch::stable::contiguous(rounded), shape);
}

Tensor workspace(const Tensor& like, int64_t numbers, ScalarType type) {
  return torch::stable::empty(std::vector<int64_t>{numbers}, type, std::nullopt, like.device());
}

void* address(const Tensor& t, int64_t element) {
  return static_cast<char*>(t.mutable_data_ptr()) + element * element_size(t.scalar_type());
}
// A matrix that begins at element `element` of t.
Tensor part(const Tensor& t, int64_t element, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step = 1) {
  return matrix(address(t, element), t.scalar_type(), rows, columns, row_step, column_step);
}

// Calls f(first, last) for pieces [0, pieces), on at most `workers` >= 2 threads. Inside parallel_for a product runs on one
// thread. But parallel_for runs a single range on the calling thread, where a product would use all threads: hence a second,
// empty range.
template <class F>
void for_pieces(int64_t pieces, int64_t workers, const F& f) {
  const int64_t range = pieces > 2 ? pieces : 2;
  torch::stable::parallel_for(0, range, workers < range ? divide_up(range, workers) : 1, [&](int64_t first, int64_t last) {
    if (last > pieces) last = pieces;
    if (first < last) f(first, last);
  });
}
template <class F>
void for_pieces(int64_t pieces, const F& f) {
  for_pieces(pieces, pieces + 2, f);
}

// out = a b, or out += a b, with the inner dimension in pieces of at most kSum: on Intel processors, MKL splits longer sums when
// it is limited to one thread, but not when it runs on one of several threads, so results would differ. (Of 30,000 random shapes
// with the layouts used here, none differs at 768, and 20 % differ at 896; in float64 none at 192, except with two rows: hence
// kRows. With a contiguous inner dimension in b, more differ.)
void product(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
  const int64_t length = a.size(1), most = a.scalar_type() == ScalarType::Double ? kSum / 4 : kSum;
  const int64_t piece = divide_up(divide_up(length, divide_up(length, most)), 16) * 16;
  for (int64_t i = 0; i < length; i += piece, add = true) {
    const int64_t here = std::min(piece, length - i);
    const Tensor some_a = part(a, i * a.stride(1), a.size(0), here, a.stride(0), a.stride(1));
    const Tensor some_b = part(b, i * b.stride(0), here, b.size(1), b.stride(0), b.stride(1));
    if (add)
      add_product(out, some_a, some_b);
    else
      multiply(out, some_a, some_b);
  }
}

// Sets the rows of a block beyond its last pixel to zero, if there are any.
void zero_rows(const Tensor& block, int64_t pixels, int64_t length) {
  const int64_t size = (whole_rows(pixels) - pixels) * length * element_size(block.scalar_type());
  if (size > 0) std::memset(address(block, pixels * length), 0, size_t(size));
}

// Output pixels per block, for `bytes` per pixel: as many as fit into kBlock, but at least 16 blocks in total.
int64_t pixels_a_block(int64_t bytes, int64_t pixels) {
  const int64_t share = std::max(whole_rows(divide_up(pixels, 16)), int64_t(32));
  const int64_t block = std::min({kBlock / bytes, int64_t(1024), share});
  return std::max(block / kRows * kRows, kRows);
}

// Channels of x, whole runs.
struct Channels {
  int64_t begin, end;
};

// Calls f(column, columns, g, row) for the weight groups of a range of channels: among the columns of these channels, those from
// `column` on belong to weight group g, and to its weights from `row` on.
template <class F>
void for_weight_groups(const DeformConv2dArguments& a, Channels channels, const F& f) {
  const int64_t depth = a.channels / a.weight_groups, k = a.kernel_h * a.kernel_w;
  for (int64_t begin = channels.begin, end; begin < channels.end; begin = end) {
    const int64_t g = begin / depth;
    end = std::min((g + 1) * depth, channels.end);
    f((begin - channels.begin) * k, (end - begin) * k, g, begin % depth * k);
  }
}

// Forward processes as many channels at a time as fit into one piece of a sum: with fewer columns per pixel, more pixels fit into
// a block, and each block's product reads the weight once. (All 192 channels at once: 96 ms instead of 86.)
int64_t channels_a_chunk(const DeformConv2dArguments& a) {
  return std::min(std::max(kSum / (a.kernel_h * a.kernel_w * a.run), int64_t(1)) * a.run, a.channels);
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                     const std::vector<int64_t>& dilation) {
  const Tensor x = to_sample(input);
  DeformConv2dArguments a = arguments(x, offset, weight, mask, stride, padding, dilation);
  const ScalarType type = sum_type(x);
  Tensor y = empty_like_format(input, a.batch, a.out_channels, a.out_height, a.out_width, x.scalar_type());
  a.y = y.mutable_data_ptr(), a.y_steps = steps_of(y);
  Tensor bias_sum;
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == a.out_channels && bias->is_cpu(),
                    "deform_conv2d: bias must have one number for each output channel");
    bias_sum = torch::stable::contiguous(torch::stable::to(*bias, type));
    a.bias = bias_sum.const_data_ptr();
  }
  const DeformConv2dKernel& kernel = DKIC_CHOSEN(deform_conv2d_kernel);
  const int64_t pixels = a.batch * a.out_height * a.out_width;
  if (pixels == 0 || a.out_channels == 0) return y;

  const int64_t k = a.kernel_h * a.kernel_w, depth = a.channels / a.weight_groups,
                group_channels = a.out_channels / a.weight_groups;
  const std::vector<int64_t> by_group{a.weight_groups, group_channels, depth * k};
  // [weight group][channels and taps][output channels of the group]
  const Tensor w =
      torch::stable::contiguous(torch::stable::transpose(torch::stable::reshape(in_column_order(a, weight), by_group), 1, 2));
  const int64_t chunk = channels_a_chunk(a);
  const int64_t bytes = (chunk * k + a.out_channels) * element_size(type), block = pixels_a_block(bytes, pixels);
  const int64_t workers = kWorkspace / (block * bytes);
  for_pieces(divide_up(pixels, block), workers < 2 ? 2 : workers, [&](int64_t first_block, int64_t last_block) {
    const Tensor columns = workspace(x, block * chunk * k, type), rows = workspace(x, block * a.out_channels, type);
    for (int64_t b = first_block; b < last_block; ++b) {
      const int64_t first = b * block, last = std::min(first + block, pixels), whole = whole_rows(last - first);
      for (int64_t begin = 0; begin < a.channels; begin += chunk) {
        const Channels channels{begin, std::min(begin + chunk, a.channels)};
        const int64_t length = (channels.end - begin) * k;
        kernel.columns(a, {first, last, begin, channels.end}, columns.mutable_data_ptr());
        zero_rows(columns, last - first, length);
        for_weight_groups(a, channels, [&](int64_t column, int64_t columns_here, int64_t g, int64_t row) {
          product(part(rows, g * group_channels, whole, group_channels, a.out_channels),
                  part(columns, column, whole, columns_here, length),
                  part(w, (g * depth * k + row) * group_channels, columns_here, group_channels, group_channels), row > 0);
        });
      }
      kernel.write_rows(a, first, last, rows.const_data_ptr());
    }
  });
  return y;
}

struct Wanted {
  bool x, offset, weight, bias, mask;
  bool samples() const { return offset || mask; }
};

int64_t parts_a_group(const DeformConv2dArguments& a) {
  const int64_t wanted = wanted_parts(a), most = a.channels / a.groups / (a.run < 16 ? 16 : a.run);
  return most < 1 ? 1 : wanted < most ? wanted : most;
}

// The channels of a part of backward's work, within one offset group. Parts are independent, except that the gradients of offset
// and mask are sums over the parts of a group.
Channels part_of(const DeformConv2dArguments& a, int64_t index) {
  const int64_t parts = parts_a_group(a), runs = a.channels / a.groups / a.run, g = index / parts, i = index % parts;
  return {(g * runs + runs * i / parts) * a.run, (g * runs + runs * (i + 1) / parts) * a.run};
}

// Processes the output pixels block by block, and in each block part by part: the gradient of the columns, which gives those of
// x, offset and mask, and the columns, which give that of the weight, while both are in the second-level cache.
void backward_blocks(const DeformConv2dArguments& a, const Wanted& wanted, const Tensor& w, const Tensor& grad_weight,
                     const Tensor& grad_bias) {
  const DeformConv2dKernel& kernel = DKIC_CHOSEN(deform_conv2d_kernel);
  const ScalarType type = w.scalar_type();
  const int64_t pixels = a.batch * a.out_height * a.out_width, k = a.kernel_h * a.kernel_w;
  const int64_t group_channels = a.out_channels / a.weight_groups, group_length = a.channels / a.weight_groups * k;
  const int64_t group_weights = group_channels * group_length;
  const int64_t parts = a.groups * parts_a_group(a);
  int64_t longest = 0;
  for (int64_t i = 0; i < parts; ++i) longest = std::max(longest, (part_of(a, i).end - part_of(a, i).begin) * k);
  const int64_t shared_bytes = (a.out_channels + parts * k * 3) * element_size(type);
  const int64_t part_bytes = 2 * longest * element_size(type);
  const int64_t fit = kWorkspace / (shared_bytes + 2 * part_bytes) / kRows * kRows;
  const int64_t block = std::max(std::min(pixels_a_block(part_bytes, pixels), fit), kRows);
  const int64_t workers = (kWorkspace - block * shared_bytes) / (block * part_bytes);

  const Tensor rows = workspace(w, block * a.out_channels, type);
  const Tensor sample_gradients = workspace(w, wanted.samples() ? block * parts * k * 3 : 0, type);
  for (int64_t first = 0; first < pixels; first += block) {
    const int64_t count = std::min(block, pixels - first), whole = whole_rows(count), some = 32;
    for_pieces(divide_up(count, some), [&](int64_t begin, int64_t end) {
      const int64_t from = begin * some, to = std::min(end * some, count);
      kernel.read_rows(a, first + from, first + to, address(rows, from * a.out_channels));
    });
    zero_rows(rows, count, a.out_channels);
    for_pieces(parts + wanted.bias, workers < 2 ? 2 : workers, [&](int64_t begin, int64_t end) {
      const Tensor columns = workspace(w, block * longest, type), grad_columns = workspace(w, block * longest, type);
      for (int64_t i = begin; i < end; ++i) {
        if (i == parts) {
          kernel.sum_rows(a, count, rows.const_data_ptr(), grad_bias.mutable_data_ptr<double>());
          continue;
        }
        const Channels channels = part_of(a, i);
        const DeformConv2dRange range{first, first + count, channels.begin, channels.end};
        const int64_t length = (channels.end - channels.begin) * k;
        if (wanted.x || wanted.samples())
          for_weight_groups(a, channels, [&](int64_t column, int64_t columns_here, int64_t g, int64_t row) {
            product(part(grad_columns, column, whole, columns_here, length),
                    part(rows, g * group_channels, whole, group_channels, a.out_channels),
                    part(w, g * group_weights + row, group_channels, columns_here, group_length), false);
          });
        if (wanted.samples())
          kernel.backward_samples(a, range, grad_columns.const_data_ptr(), wanted.weight ? columns.mutable_data_ptr() : nullptr,
                                  address(sample_gradients, i * k * 3), parts * k * 3);
        else if (wanted.weight)
          kernel.columns(a, range, columns.mutable_data_ptr());
        if (wanted.x) kernel.backward_x(a, range, grad_columns.const_data_ptr());
        if (wanted.weight)
          for_weight_groups(a, channels, [&](int64_t column, int64_t columns_here, int64_t g, int64_t row) {
            product(part(grad_weight, g * group_weights + row, group_channels, columns_here, group_length),
                    part(rows, g * group_channels, group_channels, count, 1, a.out_channels),
                    part(columns, column, count, columns_here, length), true);
          });
      }
    });
    if (wanted.samples())
      for_pieces(divide_up(count, some), [&](int64_t begin, int64_t end) {
        const int64_t from = begin * some, to = std::min(end * some, count);
        kernel.write_sample_gradients(a, first + from, first + to, address(sample_gradients, from * parts * k * 3),
                                      parts_a_group(a));
      });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_y, const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
    bool need_input, bool need_offset, bool need_weight, bool need_bias, bool need_mask,
    bool /*deterministic: it always is here*/) {
  const Tensor x = to_sample(input);
  DeformConv2dArguments a = arguments(x, offset, weight, mask, stride, padding, dilation);
  read_grad_y(a, "deform_conv2d", grad_y, x, a.out_channels);
  const ScalarType type = sum_type(x), mask_type = mask ? mask->scalar_type() : offset.scalar_type();
  const int64_t k = a.kernel_h * a.kernel_w;
  const Wanted wanted{need_input, need_offset, need_weight, need_bias, need_mask && mask};

  Tensor x_sum = empty_vector(x, x.scalar_type()), grad_offset = empty_vector(x, offset.scalar_type());
  Tensor weight_sum = empty_vector(x, x.scalar_type()), bias_sum = empty_vector(x, x.scalar_type());
  Tensor grad_mask = empty_vector(x, mask_type);
  if (wanted.x) {
    x_sum = empty_nhwc(x, a.batch, a.channels, a.height, a.width, type);
    torch::stable::zero_(x_sum);
    a.grad_x = x_sum.mutable_data_ptr();
  }
  if (wanted.offset) {
    grad_offset = empty_like_format(offset, a.batch, a.groups * k * 2, a.out_height, a.out_width, offset.scalar_type());
    a.grad_offset = grad_offset.mutable_data_ptr(), a.grad_offset_steps = steps_of(grad_offset);
  }
  if (wanted.mask) {
    grad_mask = empty_like_format(*mask, a.batch, a.groups * k, a.out_height, a.out_width, mask_type);
    a.grad_mask = grad_mask.mutable_data_ptr(), a.grad_mask_steps = steps_of(grad_mask);
  }
  if (wanted.weight) {
    const std::vector<int64_t> shape{a.out_channels, weight.size(1) / a.run, k, a.run};
    weight_sum = torch::stable::empty(shape, type, std::nullopt, x.device());
    torch::stable::zero_(weight_sum);
  }
  if (wanted.bias) {
    bias_sum = workspace(x, a.out_channels, ScalarType::Double);
    torch::stable::zero_(bias_sum);
  }
  if (a.out_channels == 0) {
    torch::stable::zero_(grad_offset);
    torch::stable::zero_(grad_mask);
  } else if (a.batch * a.out_height * a.out_width > 0) {
    backward_blocks(a, wanted, in_column_order(a, weight), weight_sum, bias_sum);
  }
  if (wanted.weight) weight_sum = from_column_order(weight_sum, weight);
  const Tensor grad_x = wanted.x ? returned(x_sum, x.scalar_type(), input) : x_sum;
  return {grad_x, grad_offset, weight_sum, torch::stable::to(bias_sum, x.scalar_type()), grad_mask};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&dkic::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&dkic::deform_conv2d_backward));
}
