// dkic::gaussian_likelihood and dkic::gaussian_likelihood_backward on the CPU: checks that guard memory, outputs, the traversal
// through the tensors, and cutting the work for threads. Schemas, fake kernels, autograd and the user's error messages are in
// dkic/ops/; the arithmetic is in gaussian_likelihood_kernel.cpp.
#include "cpu/gaussian_likelihood_kernel.h"
#include "cpu/traversal_cpu.h"

namespace dkic {
namespace {

// An element's number in its sample, as if it were a tensor's element.
Operand numbers(const Shape& shape) {
  Operand result{nullptr, Scalar::f32, Shape(shape.size(), 0)};
  int64_t stride = 1;
  for (size_t axis = shape.size() - 1; axis > 0; stride *= shape[axis--]) result.strides[axis] = stride;
  return result;
}

ScalarType compute_type(bool is_double) { return is_double ? ScalarType::Double : ScalarType::Float; }

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Result gaussian_likelihood(const Tensor& y, const Tensor& scale, const std::optional<Tensor>& mean,
                           const std::optional<Tensor>& noise, const std::optional<Tensor>& seed, bool rounded, double scale_min,
                           bool sum, bool need_v, bool need_scale, bool likelihood, double likelihood_min) {
  STD_TORCH_CHECK(y.dim() > 0, "gaussian_likelihood: y must have a batch dimension");
  STD_TORCH_CHECK(scale_min > 0, "gaussian_likelihood: scale_min must be above 0");
  STD_TORCH_CHECK(!seed || (seed->is_cpu() && seed->numel() == 1 && seed->scalar_type() == ScalarType::Long),
                  "gaussian_likelihood: seed must be one int64 number on the CPU");
  STD_TORCH_CHECK(int(rounded) + int(noise.has_value()) + int(seed.has_value()) <= 1,
                  "gaussian_likelihood: rounded, noise and seed exclude each other");
  STD_TORCH_CHECK(!(sum && likelihood), "gaussian_likelihood: sum must be of bits");
  const Shape shape = shape_of(y);
  const std::vector<Operand> operands{operand(y, shape, "y"), operand(scale, shape, "scale"),
                                      optional_operand(mean, shape, "mean"), optional_operand(noise, shape, "noise"),
                                      seed ? numbers(shape) : optional_operand({}, shape, "")};
  const bool channels_last = channels_innermost(y);
  std::vector<StridedOperand> traversed;
  const std::optional<Traversal> traversal = make_traversal(shape, channels_last, operands, traversed);
  if (!traversal) {
    const auto plain = [](const std::optional<Tensor>& t) { return t ? std::optional(torch::stable::contiguous(*t)) : t; };
    Result result = gaussian_likelihood(*plain(y), *plain(scale), plain(mean), plain(noise), seed, rounded, scale_min, sum,
                                        need_v, need_scale, likelihood, likelihood_min);
    return result;
  }

  GaussianLikelihoodArguments a{};
  a.traversal = *traversal;
  for (const Operand& o : operands) a.is_double |= o.type == Scalar::f64;
  a.rounded = rounded, a.drawn = seed.has_value(), a.in_order = !channels_last;
  a.scale_min = scale_min;
  a.likelihood = likelihood, a.likelihood_min = likelihood_min;
  if (seed) a.seed = uint64_t(*static_cast<const int64_t*>(seed->const_data_ptr()));
  a.y = traversed[0], a.scale = traversed[1], a.mean = traversed[2], a.noise = traversed[3];
  for (int axis = 0; axis < kTraversalAxes; ++axis) a.index_stride[axis] = traversed[4].stride[axis];

  const ScalarType type = compute_type(a.is_double);
  const auto map = [&](bool wanted, ScalarType of, void*& data) {
    Tensor t = wanted ? empty_result(y, of, channels_last) : empty_vector(y, of);
    data = wanted ? t.mutable_data_ptr() : nullptr;
    return t;
  };
  const Tensor y_hat = map(rounded || noise || seed, y.scalar_type(), a.y_hat);
  Tensor bits = map(!sum, type, a.bits);
  const Tensor by_v = map(need_v, type, a.by_v), by_scale = map(need_scale, type, a.by_scale);
  const int64_t chunks = chunks_of_sample(a.traversal);
  std::vector<double> sums(sum ? size_t(a.traversal.batch * chunks) : 0);
  a.sums = sum ? sums.data() : nullptr;
  const GaussianLikelihoodKernel& kernel = DKIC_CHOSEN(gaussian_likelihood_kernel);
  for_chunks(a.traversal, [&](int64_t first, int64_t last) { kernel.forward(a, first, last); });
  if (sum) {
    bits = torch::stable::empty(Shape{a.traversal.batch}, type, std::nullopt, y.device());
    for (int64_t n = 0; n < a.traversal.batch; ++n) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[size_t(n * chunks + chunk)];
      if (a.is_double) {
        static_cast<double*>(bits.mutable_data_ptr())[n] = total;
      } else {
        static_cast<float*>(bits.mutable_data_ptr())[n] = float(total);
      }
    }
  }
  return {y_hat, bits, by_v, by_scale};
}

std::tuple<Tensor, Tensor, Tensor> gaussian_likelihood_backward(const std::optional<Tensor>& grad_y_hat, const Tensor& grad_bits,
                                                                const Tensor& by_v, const Tensor& by_scale, const Tensor& scale,
                                                                double scale_min, bool need_y, bool need_scale, bool need_mean,
                                                                const std::optional<Tensor>& likelihood, double likelihood_min) {
  const Shape shape = shape_of(scale);
  STD_TORCH_CHECK(!shape.empty(), "gaussian_likelihood_backward: scale must have a batch dimension");
  Operand bits;
  if (grad_bits.dim() == 1 && grad_bits.size(0) == shape[0]) {  // of the sums
    bits = operand(grad_bits, Shape{shape[0]}, "grad_bits");
    bits.strides.resize(shape.size(), 0);
  } else {
    bits = operand(grad_bits, shape, "grad_bits");
  }
  const auto wanted = [](bool need, const Tensor& t) { return need ? std::optional(t) : std::nullopt; };
  const auto slope_v = wanted(need_y || need_mean, by_v), slope_scale = wanted(need_scale, by_scale);
  const std::vector<Operand> operands{optional_operand(grad_y_hat, shape, "grad_y_hat"),
                                      bits,
                                      optional_operand(slope_v, shape, "by_v"),
                                      optional_operand(slope_scale, shape, "by_scale"),
                                      operand(scale, shape, "scale"),
                                      optional_operand(likelihood, shape, "likelihood")};
  const bool channels_last = channels_innermost(slope_v ? *slope_v : slope_scale ? *slope_scale : scale);
  std::vector<StridedOperand> traversed;
  const std::optional<Traversal> traversal = make_traversal(shape, channels_last, operands, traversed);
  if (!traversal) {
    const auto plain = [](const Tensor& t) { return torch::stable::contiguous(t); };
    return gaussian_likelihood_backward(grad_y_hat ? std::optional(plain(*grad_y_hat)) : grad_y_hat, plain(grad_bits),
                                        plain(by_v), plain(by_scale), plain(scale), scale_min, need_y, need_scale, need_mean,
                                        likelihood ? std::optional(plain(*likelihood)) : likelihood, likelihood_min);
  }
  GaussianLikelihoodBackwardArguments a{};
  a.traversal = *traversal;
  a.is_double = bits.type == Scalar::f64;
  a.scale_min = scale_min, a.likelihood_min = likelihood_min;
  a.grad_y_hat = traversed[0], a.grad_bits = traversed[1], a.by_v = traversed[2], a.by_scale = traversed[3],
  a.scale = traversed[4];
  a.likelihood = traversed[5];
  for (const Operand& o : operands)
    STD_TORCH_CHECK(a.is_double || o.type != Scalar::f64,
                    "gaussian_likelihood_backward: grad_bits must be float64 as others are");
  const ScalarType type = compute_type(a.is_double);
  const auto map = [&](bool need, void*& data) {
    Tensor t = need ? empty_result(scale, type, channels_last) : empty_vector(scale, type);
    data = need ? t.mutable_data_ptr() : nullptr;
    return t;
  };
  const Tensor grad_y = map(need_y, a.grad_y), grad_scale = map(need_scale, a.grad_scale),
               grad_mean = map(need_mean, a.grad_mean);
  const GaussianLikelihoodKernel& kernel = DKIC_CHOSEN(gaussian_likelihood_kernel);
  for_chunks(a.traversal, [&](int64_t first, int64_t last) { kernel.backward(a, first, last); });
  return {grad_y, grad_scale, grad_mean};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("gaussian_likelihood", TORCH_BOX(&dkic::gaussian_likelihood));
  m.impl("gaussian_likelihood_backward", TORCH_BOX(&dkic::gaussian_likelihood_backward));
}
