// dkic::deform_conv2d and dkic::deform_conv2d_backward on the CPU: checks that guard memory, outputs, the matrix products, and
// cutting the work for threads. Schemas, fake kernels, autograd and the user's error messages are in dkic/ops/; the samples are
// in deform_conv2d_kernel.cpp.
//
// Samples are written to columns of a block of positions at a time, small enough for the second-level cache, and multiplied
// there. All is cut by shape alone, and each product runs on one thread, so that results don't depend on the number of threads.
#include "deform_arguments.h"
#include "deform_conv2d_kernel.h"
#include "stable_abi.h"

namespace dkic {
namespace {

// Beside its arguments and results, and copies of the weight, the op takes no more than kCopy + kWorkspace of memory (where
// not even two positions' columns fit into that, two positions' columns).
constexpr int64_t kBlock = 768 << 10;  // columns of a block: with a product's own copies they stay in 1 MB of L2
constexpr int64_t kWorkspace = 12 << 20;
constexpr int64_t kCopy = 16 << 20;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

DeformConv2dArguments arguments(const Tensor& x, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                                const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                const std::vector<int64_t>& dilation) {
  DeformConv2dArguments a{};
  STD_TORCH_CHECK(weight.dim() == 4 && weight.is_cpu() && weight.scalar_type() == x.scalar_type(),
                  "deform_conv2d: weight must be a 4-d tensor on the CPU, of input's dtype");
  read_samples(a, "deform_conv2d", x, offset, mask, {weight.size(2), weight.size(3)}, stride, padding, dilation);
  const int64_t depth = weight.size(1);
  STD_TORCH_CHECK(depth > 0 && a.channels % depth == 0 && weight.size(0) > 0 && weight.size(0) % (a.channels / depth) == 0,
                  "deform_conv2d: the shape of weight does not fit input");
  a.out_channels = weight.size(0), a.weight_groups = a.channels / depth;
  return a;
}

// x as the kernel reads it fastest: with channels side by side, unless a copy would be large.
Tensor to_sample(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 4, "deform_conv2d: input must have 4 dimensions");
  const bool copy = x.numel() * element_size(x.scalar_type()) <= kCopy;
  return copy ? channels_adjacent(x) : x;
}

ScalarType sum_type(const Tensor& x) { return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

// In a column's order: [out_channels][taps][channels of a weight group].
Tensor in_column_order(const Tensor& weight) {
  return torch::stable::contiguous(torch::stable::to(weight, sum_type(weight)), MemoryFormat::ChannelsLast);
}

Tensor workspace(const Tensor& like, int64_t numbers, ScalarType type) {
  return torch::stable::empty(std::vector<int64_t>{numbers}, type, std::nullopt, like.device());
}

template <class T>
T* offset_by(const Tensor& t, int64_t elements) {
  return static_cast<T*>(t.mutable_data_ptr()) + elements * element_size(t.scalar_type());
}
// A matrix that begins `elements` behind t's first number.
Tensor part(const Tensor& t, int64_t elements, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step = 1) {
  return matrix(offset_by<char>(t, elements), t.scalar_type(), rows, columns, row_step, column_step);
}

// Calls f(first, last) for pieces [0, pieces), on at most `workers` >= 2 threads. Within parallel_for a product runs on one thread;
// but a lone range is not handed to a thread, and a product there would be spread over all: hence a second, empty one.
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

// How many positions a block has whose work takes `bytes` a position: what fits into kBlock, but few enough for 16 blocks.
int64_t positions_a_block(int64_t bytes, int64_t positions) {
  int64_t block = kBlock / bytes;
  if (block > 1024) block = 1024;
  const int64_t share = divide_up(positions, 16 * 16) * 16;
  if (block > share && share >= 32) block = share;
  return block >= 16 ? block / 16 * 16 : block > 0 ? block : 1;
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                     const std::vector<int64_t>& dilation) {
  const Tensor x = to_sample(input);
  DeformConv2dArguments a = arguments(x, offset, weight, mask, stride, padding, dilation);
  const ScalarType type = sum_type(x);
  Tensor y = empty_nhwc(x, a.batch, a.out_channels, a.out_height, a.out_width, x.scalar_type());
  a.y = y.mutable_data_ptr();
  Tensor bias_sum;
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == a.out_channels && bias->is_cpu(),
                    "deform_conv2d: bias must have one number for each output channel");
    bias_sum = torch::stable::contiguous(torch::stable::to(*bias, type));
    a.bias = bias_sum.const_data_ptr();
  }
  const DeformConv2dKernel& kernel = DKIC_CHOSEN(deform_conv2d_kernel);
  const int64_t positions = a.batch * a.out_area(), length = a.column_length();
  if (positions == 0) return y;

  const Tensor w = in_column_order(weight);
  const int64_t group_length = length / a.weight_groups, group_channels = a.out_channels / a.weight_groups;
  const int64_t bytes = (length + a.out_channels) * element_size(type), block = positions_a_block(bytes, positions);
  const int64_t workers = kWorkspace / (block * bytes);
  for_pieces(divide_up(positions, block), workers < 2 ? 2 : workers, [&](int64_t first_block, int64_t last_block) {
    const Tensor columns = workspace(x, block * length, type), rows = workspace(x, block * a.out_channels, type);
    for (int64_t b = first_block; b < last_block; ++b) {
      const int64_t first = b * block, last = first + block < positions ? first + block : positions;
      kernel.columns(a, first, last, columns.mutable_data_ptr());
      for (int64_t g = 0; g < a.weight_groups; ++g)
        multiply(part(rows, g * group_channels, last - first, group_channels, a.out_channels),
                 part(columns, g * group_length, last - first, group_length, length),
                 part(w, g * group_channels * group_length, group_length, group_channels, 1, group_length));
      kernel.write_rows(a, first, last, rows.const_data_ptr());
    }
  });
  return y;
}

struct Wanted {
  bool x, offset, weight, bias, mask;
  bool samples() const { return offset || mask; }
};

// Goes over the positions in steps of several blocks. In each step: the columns and their gradient, and with them the gradients
// of offset and mask, block by block; the gradient of x, by channels; that of the weight, by parts of a column.
void backward_steps(const DeformConv2dArguments& a, const Wanted& wanted, const Tensor& w, const Tensor& grad_weight,
                    const Tensor& grad_bias) {
  const DeformConv2dKernel& kernel = DKIC_CHOSEN(deform_conv2d_kernel);
  const ScalarType type = w.scalar_type();
  const int64_t positions = a.batch * a.out_area(), length = a.column_length(), out_channels = a.out_channels;
  const int64_t group_length = length / a.weight_groups, group_channels = out_channels / a.weight_groups;
  const int64_t bytes = (2 * length + out_channels) * element_size(type), block = positions_a_block(bytes, positions);
  int64_t step = kWorkspace / (block * bytes);
  step = block * (step > 16 ? 16 : step > 0 ? step : 1);
  // 8 parts of the columns, or fewer of at least 64 numbers, share the work on the gradient of a weight.
  const int64_t parts_by_length = divide_up(8, a.weight_groups), most_parts = group_length / 64 > 1 ? group_length / 64 : 1;
  const int64_t parts = parts_by_length < most_parts ? parts_by_length : most_parts;

  const bool need_grad_columns = wanted.x || wanted.samples();
  const Tensor rows = workspace(w, step * out_channels, type), ones = workspace(w, step, type);
  const Tensor columns = workspace(w, wanted.weight ? step * length : 0, type);
  const Tensor grad_columns = workspace(w, need_grad_columns ? step * length : 0, type);
  torch::stable::fill_(const_cast<Tensor&>(ones), 1);

  for (int64_t begin = 0; begin < positions; begin += step) {
    const int64_t end = begin + step < positions ? begin + step : positions, count = end - begin;
    for_pieces(divide_up(count, block), [&](int64_t first_block, int64_t last_block) {
      for (int64_t b = first_block; b < last_block; ++b) {
        const int64_t at = b * block, size = at + block < count ? block : count - at, first = begin + at, last = first + size;
        kernel.read_rows(a, first, last, offset_by<char>(rows, at * out_channels));
        for (int64_t g = 0; need_grad_columns && g < a.weight_groups; ++g)
          multiply(part(grad_columns, at * length + g * group_length, size, group_length, length),
                   part(rows, at * out_channels + g * group_channels, size, group_channels, out_channels),
                   part(w, g * group_channels * group_length, group_channels, group_length, group_length));
        void* block_columns = wanted.weight ? offset_by<char>(columns, at * length) : nullptr;
        if (wanted.samples())
          kernel.backward_samples(a, first, last, offset_by<char>(grad_columns, at * length), block_columns);
        else if (wanted.weight)
          kernel.columns(a, first, last, block_columns);
      }
    });
    if (wanted.x) {
      const int64_t images = (end - 1) / a.out_area() - begin / a.out_area() + 1;
      const int64_t pieces = images * a.groups * a.channel_blocks();
      for_pieces(pieces, [&](int64_t first, int64_t last) {
        for (; first < last; ++first) kernel.backward_x(a, begin, end, grad_columns.const_data_ptr(), first);
      });
    }
    const int64_t products = wanted.weight ? a.weight_groups * parts : 0, pieces = products + wanted.bias;
    for_pieces(pieces, [&](int64_t first, int64_t last) {
      for (; first < last; ++first) {
        if (first == products) {
          add_product(part(grad_bias, 0, 1, out_channels, out_channels), part(ones, 0, 1, count, count),
                      part(rows, 0, count, out_channels, out_channels));
        } else {
          const int64_t g = first / parts, from = group_length * (first % parts) / parts;
          const int64_t to = group_length * (first % parts + 1) / parts;
          add_product(part(grad_weight, g * group_channels * group_length + from, group_channels, to - from, group_length),
                      part(rows, g * group_channels, group_channels, count, 1, out_channels),
                      part(columns, g * group_length + from, count, to - from, length));
        }
      }
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
  STD_TORCH_CHECK(grad_y.dim() == 4 && grad_y.size(0) == a.batch && grad_y.size(1) == a.out_channels &&
                      grad_y.size(2) == a.out_height && grad_y.size(3) == a.out_width && grad_y.scalar_type() == x.scalar_type(),
                  "deform_conv2d_backward: grad_y must have the shape and dtype of deform_conv2d's result");
  a.grad_y = strided(grad_y, "grad_y");
  const ScalarType type = sum_type(x), mask_type = mask ? mask->scalar_type() : offset.scalar_type();
  const int64_t k = a.taps();
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
    grad_offset = empty_nhwc(x, a.batch, a.groups * k * 2, a.out_height, a.out_width, offset.scalar_type());
    a.grad_offset = grad_offset.mutable_data_ptr();
  }
  if (wanted.mask) {
    grad_mask = empty_nhwc(x, a.batch, a.groups * k, a.out_height, a.out_width, mask_type);
    a.grad_mask = grad_mask.mutable_data_ptr();
  }
  if (wanted.weight) {
    weight_sum = empty_nhwc(x, a.out_channels, weight.size(1), a.kernel_h, a.kernel_w, type);
    torch::stable::zero_(weight_sum);
  }
  if (wanted.bias) {
    bias_sum = workspace(x, a.out_channels, type);
    torch::stable::zero_(bias_sum);
  }
  if (a.batch * a.out_area() > 0) backward_steps(a, wanted, in_column_order(weight), weight_sum, bias_sum);
  const auto rounded = [&](const Tensor& sum) { return torch::stable::to(sum, x.scalar_type()); };
  return {rounded(x_sum), grad_offset, rounded(weight_sum), rounded(bias_sum), grad_mask};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&dkic::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&dkic::deform_conv2d_backward));
}
