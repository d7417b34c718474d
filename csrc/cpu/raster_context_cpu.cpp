// dkic::raster_encode and dkic::raster_decode: a latent coded in raster order. A network computes the scales and means at a
// position from the hyperprior's parameters and the earlier positions (Minnen et al. 2018, section 3).
//
// The encoder knows all of y, so it computes positions that do not depend on each other together: with a kernel of 2 r + 1
// columns, those of equal w + (r + 1) h. The decoder computes one position of each sample at a time, as its stream is in raster
// order; contributions of the rows above and of the parameters are computed for a whole row. Both add the same terms in the same
// order (raster_context_kernel.h), so their scales and means are equal bit for bit, with any number of threads.
#include <cmath>
#include <memory>

#include "cpu/cdf_coder_cpu.h"
#include "cpu/raster_context_kernel.h"
#include "cpu/scale_edges.h"

namespace dkic {
namespace {

const float* floats(const Tensor& t, const Shape& shape, const char* name) {
  bool fits = t.is_cpu() && t.scalar_type() == ScalarType::Float && t.dim() == int64_t(shape.size());
  for (size_t axis = 0; fits && axis < shape.size(); ++axis) fits = t.size(int64_t(axis)) == shape[axis];
  STD_TORCH_CHECK(fits, "raster_context: ", name, " must be float32 on the CPU, in a shape that goes with the others");
  return static_cast<const float*>(t.const_data_ptr());
}

int64_t padded(int64_t count) { return (count + kPanel - 1) / kPanel * kPanel; }

// A linear layer. Its weights are stored in panels; its outputs are padded to whole panels.
class Layer {
 public:
  // weight: of output o and input k, weight[o * output_step + offset_of(k)].
  template <class F>
  Layer(const float* weight, const float* bias, int64_t outputs, int64_t depth, int64_t output_step, const F& offset_of)
      : depth_(depth), width_(padded(outputs)), weight_(size_t(depth * width_)), bias_(size_t(width_)) {
    std::copy_n(bias, outputs, bias_.begin());
    torch::stable::parallel_for(0, panels(), 1, [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel)
        for (int64_t o = panel * kPanel; o < std::min((panel + 1) * kPanel, outputs); ++o)
          for (int64_t k = 0; k < depth; ++k)
            weight_[size_t((panel * depth + k) * kPanel + o % kPanel)] = weight[o * output_step + offset_of(k)];
    });
  }

  int64_t depth() const { return depth_; }
  int64_t width() const { return width_; }
  int64_t panels() const { return width_ / kPanel; }
  const float* bias(int64_t panel) const { return &bias_[size_t(panel * kPanel)]; }
  const float* weight(int64_t panel, int64_t from) const { return &weight_[size_t((panel * depth_ + from) * kPanel)]; }

 private:
  int64_t depth_, width_;
  std::vector<float> weight_, bias_;
};

// Inputs [from, from + depth) of a layer, at `offset` from the beginning of a position's input.
struct Segment {
  int64_t from, depth, offset;
};

using Inputs = std::vector<const float*>;
using Outputs = std::vector<float*>;

// Adds the contributions of segments of the inputs. New outputs are set to the bias first; the activation, a LeakyReLU of this
// slope, if any, follows.
void add(const RasterContextKernel& kernel, const Layer& layer, const std::vector<Segment>& segments, const Inputs& x,
         const Outputs& y, bool is_new, std::optional<float> slope = {}) {
  const auto count = int64_t(y.size());
  torch::stable::parallel_for(0, layer.panels(), 1, [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t o = panel * kPanel;
      if (is_new)
        for (float* to : y) std::copy_n(layer.bias(panel), kPanel, to + o);
      for (const Segment& s : segments)
        kernel.add_product(layer.weight(panel, s.from), s.depth, x.data(), s.offset, y.data(), o, count);
      if (slope)
        for (float* to : y)
          for (int64_t i = o; i < o + kPanel; ++i) to[i] = to[i] > 0 ? to[i] : to[i] * *slope;
    }
  });
}

// Values of several positions.
class Rows {
 public:
  Rows(int64_t count, int64_t width) : width_(width), values_(size_t(count * width)) {}
  float* operator[](int64_t row) { return values_.data() + row * width_; }

 private:
  int64_t width_;
  std::vector<float> values_;
};

struct Position {
  int64_t n, h, w;
};

struct Weights {
  const Tensor &context, &context_bias;
  const std::vector<Tensor>&layers, &biases;
  const std::vector<double>& slopes;
};

class RasterContext {
 public:
  int64_t batch, channels, height, width;

  RasterContext(const Tensor& params, const Weights& weights)
      : batch(params.size(0)),
        height(params.size(2)),
        width(params.size(3)),
        params_(nhwc_of(params)),
        params_channels_(params.size(1)),
        slopes_(weights.slopes.begin(), weights.slopes.end()) {
    STD_TORCH_CHECK(weights.context.dim() == 4, "raster_context: context_weight must have 4 dimensions");
    STD_TORCH_CHECK(params_channels_ >= 1, "raster_context: params must have at least one channel");
    const Tensor context = torch::stable::contiguous(weights.context);
    const int64_t context_channels = context.size(0), kernel = context.size(2);
    channels = context.size(1), radius_ = kernel / 2;
    STD_TORCH_CHECK(kernel % 2 == 1 && kernel <= 31, "raster_context: context_weight must be square and odd, at most 31");
    const float* data = floats(context, {context_channels, channels, kernel, kernel}, "context_weight");
    const Tensor bias = torch::stable::contiguous(weights.context_bias);
    const int64_t taps = radius_ * kernel + radius_, area = kernel * kernel;  // taps: rows above, and left of the middle
    context_ = std::make_unique<Layer>(data, floats(bias, {context_channels}, "context_bias"), context_channels, taps * channels,
                                       channels * area, [&](int64_t k) { return k % channels * area + k / channels; });
    for (int64_t tap = 0; tap < taps; ++tap)
      (tap < radius_ * kernel ? above_ : left_)
          .push_back({tap * channels, channels, (tap / kernel * (width + 2 * radius_) + tap % kernel) * channels});

    const size_t count = weights.layers.size();
    STD_TORCH_CHECK(count >= 1 && weights.biases.size() == count && slopes_.size() == count - 1,
                    "raster_context: weights and biases must be as many, at least 1, and slopes one fewer");
    int64_t depth = params_channels_ + context_channels;
    for (size_t i = 0; i < count; ++i) {
      const Tensor weight = torch::stable::contiguous(weights.layers[i]),
                   layer_bias = torch::stable::contiguous(weights.biases[i]);
      const int64_t outputs = weight.dim() > 0 ? weight.size(0) : 0;
      layers_.emplace_back(floats(weight, {outputs, depth, 1, 1}, "a weight"), floats(layer_bias, {outputs}, "a bias"), outputs,
                           depth, depth, [](int64_t k) { return k; });
      depth = outputs;
    }
    STD_TORCH_CHECK(depth == 2 * channels, "raster_context: the last layer must have two outputs for each channel of y");
    from_params_ = {{0, params_channels_, 0}}, from_context_ = {{params_channels_, context_channels, 0}};
    y_hat_.resize(size_t(batch * (height + radius_) * (width + 2 * radius_) * channels));
  }

  int64_t radius() const { return radius_; }
  int64_t context_width() const { return context_->width(); }
  int64_t first_width() const { return layers_.front().width(); }

  float* y_hat(const Position& at) { return window(at) + (radius_ * (width + 2 * radius_) + radius_) * channels; }

  // Contributions of the rows above and of the parameters.
  void begin(const std::vector<Position>& at, const Outputs& context, const Outputs& first) {
    add(kernel_, *context_, above_, windows(at), context, true);
    add(kernel_, layers_.front(), from_params_, params(at), first, true);
  }

  // After `begin`: scales, then means, of each position.
  Outputs finish(const std::vector<Position>& at, const Outputs& context, const Outputs& first) {
    add(kernel_, *context_, left_, windows(at), context, false);
    Outputs values = first;
    add(kernel_, layers_.front(), from_context_, {context.begin(), context.end()}, values, false, slope(0));
    for (size_t i = 1; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      Outputs next;
      if (scratch_.size() < i) scratch_.emplace_back();
      scratch_[i - 1].resize(std::max(scratch_[i - 1].size(), at.size() * size_t(layer.width())));
      for (size_t p = 0; p < at.size(); ++p) next.push_back(scratch_[i - 1].data() + int64_t(p) * layer.width());
      // The previous layer's outputs are padded, so there may be more of them than inputs of this layer.
      add(kernel_, layer, {{0, layer.depth(), 0}}, {values.begin(), values.end()}, next, true, slope(i));
      values = next;
    }
    return values;
  }

  Tensor result(const Tensor& like) {
    Tensor nhwc = empty_nhwc(like, batch, channels, height, width, ScalarType::Float);
    auto* to = static_cast<float*>(nhwc.mutable_data_ptr());
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t h = 0; h < height; ++h, to += width * channels) std::copy_n(y_hat({n, h, 0}), width * channels, to);
    return torch::stable::contiguous(nhwc);
  }

 private:
  static Tensor nhwc_of(const Tensor& t) {
    STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == ScalarType::Float && t.dim() == 4,
                    "raster_context: params must be float32 [N, P, H, W] on the CPU");
    return torch::stable::contiguous(t, MemoryFormat::ChannelsLast);
  }

  float* window(const Position& at) {
    return y_hat_.data() + ((at.n * (height + radius_) + at.h) * (width + 2 * radius_) + at.w) * channels;
  }
  Inputs windows(const std::vector<Position>& at) {
    Inputs result;
    for (const Position& p : at) result.push_back(window(p));
    return result;
  }
  Inputs params(const std::vector<Position>& at) const {
    Inputs result;
    const auto* data = static_cast<const float*>(params_.const_data_ptr());
    for (const Position& p : at) result.push_back(data + ((p.n * height + p.h) * width + p.w) * params_channels_);
    return result;
  }
  std::optional<float> slope(size_t layer) const { return layer < slopes_.size() ? std::optional(slopes_[layer]) : std::nullopt; }

  const RasterContextKernel& kernel_ = DKIC_CHOSEN(raster_context_kernel);
  Tensor params_;
  int64_t params_channels_, radius_ = 0;
  std::vector<float> slopes_;
  std::unique_ptr<Layer> context_;
  std::vector<Layer> layers_;
  std::vector<Segment> above_, left_, from_params_, from_context_;
  std::vector<float> y_hat_;  // [batch][radius + height][radius + width + radius][channels], padded with zeros
  std::vector<std::vector<float>> scratch_;
};

// Table indexes of the scales of a position.
void indexes_of(const float* scales, int64_t channels, const ScaleEdges& edges, float scale_min, int32_t* indexes) {
  for (int64_t c = 0; c < channels; ++c) indexes[c] = edges.below(scales[c] < scale_min ? scale_min : scales[c]);
}

std::tuple<Tensor, Tensor, Tensor> raster_encode(const Tensor& y, const Tensor& params, const Tensor& context_weight,
                                                 const Tensor& context_bias, const std::vector<Tensor>& weights,
                                                 const std::vector<Tensor>& biases, const std::vector<double>& slopes,
                                                 const std::vector<double>& edges, double scale_min, const Tensor& cdf,
                                                 const Tensor& cdf_length, const Tensor& offset) {
  STD_TORCH_CHECK(ScaleEdges::valid(edges), "raster_context: edges must be 1 to 65535, positive, finite and sorted");
  const ScaleEdges sorted(edges);
  RasterContext context(params, {context_weight, context_bias, weights, biases, slopes});
  const int64_t batch = context.batch, channels = context.channels, height = context.height, width = context.width;
  floats(y, {batch, channels, height, width}, "y");
  const Tensor nhwc = torch::stable::contiguous(y, MemoryFormat::ChannelsLast);
  const auto* values = static_cast<const float*>(nhwc.const_data_ptr());

  const int64_t count = height * width * channels;
  std::vector<int32_t> symbols(size_t(batch * count)), indexes(size_t(batch * count));
  const int64_t slant = context.radius() + 1, most = batch * std::min(height, (width + slant - 1) / slant);
  Rows context_rows(most, context.context_width()), first_rows(most, context.first_width());
  bool finite = true;
  for (int64_t step = 0; height > 0 && step <= width - 1 + slant * (height - 1); ++step) {
    std::vector<Position> at;
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t h = 0; h < height; ++h)
        if (const int64_t w = step - slant * h; w >= 0 && w < width) at.push_back({n, h, w});
    Outputs of_context, of_first;
    for (size_t p = 0; p < at.size(); ++p) {
      of_context.push_back(context_rows[int64_t(p)]);
      of_first.push_back(first_rows[int64_t(p)]);
    }
    context.begin(at, of_context, of_first);
    const Outputs found = context.finish(at, of_context, of_first);
    for (size_t p = 0; p < at.size(); ++p) {
      const auto [n, h, w] = at[p];
      const int64_t position = ((n * height + h) * width + w) * channels;
      indexes_of(found[p], channels, sorted, float(scale_min), indexes.data() + position);
      float* const to = context.y_hat(at[p]);
      for (int64_t c = 0; c < channels; ++c) {
        const float mean = found[p][channels + c], rounded = std::nearbyint(values[position + c] - mean);
        const bool fits = rounded >= -0x1p31f && rounded < 0x1p31f;
        finite &= fits;
        symbols[size_t(position + c)] = fits ? int32_t(rounded) : 0;
        to[c] = float(symbols[size_t(position + c)]) + mean;
      }
    }
  }
  STD_TORCH_CHECK(finite, "raster_encode: y - mean must be finite and within int32");
  std::vector<std::string> coded(static_cast<size_t>(batch));
  for_streams(batch, [&](int64_t n) {
    auto tables = tables_of(cdf, cdf_length, offset, count);
    coded[size_t(n)] =
        cdf_coder::encode(tables, {symbols.data() + n * count, size_t(count)}, std::as_const(indexes).data() + n * count);
  });
  auto [data, size] = joined(coded, y);
  return {context.result(y), data, size};
}

std::tuple<Tensor, Tensor> raster_decode(const Tensor& data, const Tensor& size, const Tensor& params,
                                         const Tensor& context_weight, const Tensor& context_bias,
                                         const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                                         const std::vector<double>& slopes, const std::vector<double>& edges, double scale_min,
                                         const Tensor& cdf, const Tensor& cdf_length, const Tensor& offset) {
  STD_TORCH_CHECK(ScaleEdges::valid(edges), "raster_context: edges must be 1 to 65535, positive, finite and sorted");
  const ScaleEdges sorted(edges);
  RasterContext context(params, {context_weight, context_bias, weights, biases, slopes});
  const int64_t batch = context.batch, channels = context.channels, height = context.height, width = context.width;
  const std::vector<std::span<const uint8_t>> parts = split(data, size, batch);
  std::vector<cdf_coder::Decoder> decoders(parts.begin(), parts.end());
  auto tables = tables_of(cdf, cdf_length, offset, batch * height * width * channels);
  const Tensor intact = torch::stable::empty(Shape{batch}, ScalarType::Bool, std::nullopt, params.device());
  auto* const good = static_cast<bool*>(intact.mutable_data_ptr());
  std::fill_n(good, batch, true);

  Rows context_rows(batch * width, context.context_width()), first_rows(batch * width, context.first_width());
  std::vector<int32_t> indexes(static_cast<size_t>(channels)), symbols(static_cast<size_t>(channels));
  for (int64_t h = 0; h < height; ++h) {
    std::vector<Position> row;
    Outputs of_context, of_first;
    for (int64_t w = 0; w < width; ++w)
      for (int64_t n = 0; n < batch; ++n) {
        of_context.push_back(context_rows[int64_t(row.size())]);
        of_first.push_back(first_rows[int64_t(row.size())]);
        row.push_back({n, h, w});
      }
    context.begin(row, of_context, of_first);
    for (int64_t w = 0; w < width; ++w) {
      const auto part = [&](const auto& all) { return std::vector(all.begin() + w * batch, all.begin() + (w + 1) * batch); };
      const std::vector<Position> at = part(row);
      const Outputs found = context.finish(at, part(of_context), part(of_first));
      for (int64_t n = 0; n < batch; ++n) {
        const float* const scales = found[size_t(n)];
        indexes_of(scales, channels, sorted, float(scale_min), indexes.data());
        good[n] = good[n] && decoders[size_t(n)].decode(tables, indexes.data(), size_t(channels), symbols.data());
        if (!good[n]) continue;  // a damaged sample does not stop the others
        float* const to = context.y_hat(at[size_t(n)]);
        for (int64_t c = 0; c < channels; ++c) to[c] = float(symbols[size_t(c)]) + scales[channels + c];
      }
    }
  }
  for (int64_t n = 0; n < batch; ++n) good[n] = good[n] && decoders[size_t(n)].finished();
  return {context.result(params), intact};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("raster_encode", TORCH_BOX(&dkic::raster_encode));
  m.impl("raster_decode", TORCH_BOX(&dkic::raster_decode));
}
