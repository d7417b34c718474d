// dkic::factorized_likelihood and its backward on the CPU: checks that guard memory accesses, and channels in parallel. The
// arithmetic is in factorized_likelihood_kernel.cpp.
#include <algorithm>

#include "common/stable_abi.h"
#include "cpu/factorized_likelihood_kernel.h"

namespace dkic {
namespace {

// Sizes of contiguous tensors: samples, channels, and elements of a channel of a sample.
struct Planes {
  int64_t samples, channels, elements;
  int64_t count() const { return (samples * elements + kFactorizedVector - 1) / kFactorizedVector * kFactorizedVector; }

  // Calls f(plane, at) for each sample: the positions of a channel's elements in the tensor, and among the channel's elements.
  template <class F>
  void of_channel(int64_t channel, const F& f) const {
    for (int64_t n = 0; n < samples; ++n) f((n * channels + channel) * elements, n * elements);
  }
};

Planes planes_of(const Tensor& x, const Tensor& parameters) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() >= 2 && x.is_contiguous(), "factorized_likelihood: x must be contiguous, [N, C, ...]");
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "factorized_likelihood: x must be float32 or float64");
  STD_TORCH_CHECK(parameters.is_cpu() && parameters.scalar_type() == type && parameters.is_contiguous() &&
                      parameters.dim() == 2 && parameters.size(0) == x.size(1) && parameters.size(1) == kFactorizedParameters,
                  "factorized_likelihood: parameters must be [C, 58], contiguous, in the dtype of x");
  const int64_t rows = x.size(0) * x.size(1);
  return {x.size(0), x.size(1), rows ? x.numel() / rows : 0};
}

void check_like(const Tensor& t, const Tensor& x, const char* name) {
  bool fits = t.is_cpu() && t.scalar_type() == x.scalar_type() && t.is_contiguous() && t.dim() == x.dim();
  for (int64_t axis = 0; fits && axis < x.dim(); ++axis) fits = t.size(axis) == x.size(axis);
  STD_TORCH_CHECK(fits, "factorized_likelihood: ", name, " must be contiguous, in the shape and dtype of x");
}

Tensor empty_as(const Tensor& t) {
  Shape shape;
  for (int64_t axis = 0; axis < t.dim(); ++axis) shape.push_back(t.size(axis));
  return torch::stable::empty(shape, t.scalar_type(), std::nullopt, t.device());
}

template <class T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
void run_forward(const Planes& planes, const Tensor& x, const Tensor& parameters, double likelihood_min, const Tensor& result,
                 FactorizedLikelihoodKernel::Forward<T> kernel) {
  auto* const to = static_cast<T*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, planes.channels, 1, [&](int64_t first, int64_t last) {
    std::vector<T> values(size_t(planes.count())), likelihoods(values.size());
    for (int64_t c = first; c < last; ++c) {
      planes.of_channel(
          c, [&](int64_t plane, int64_t at) { std::copy_n(data_of<T>(x) + plane, planes.elements, values.data() + at); });
      kernel(data_of<T>(parameters) + c * kFactorizedParameters, values.data(), planes.count(), T(likelihood_min),
             likelihoods.data());
      planes.of_channel(c, [&](int64_t plane, int64_t at) { std::copy_n(likelihoods.data() + at, planes.elements, to + plane); });
    }
  });
}

template <class T>
void run_backward(const Planes& planes, const Tensor& grad, const Tensor& x, const Tensor& parameters, const Tensor& likelihood,
                  double likelihood_min, const Tensor& grad_x, const Tensor& grad_parameters,
                  FactorizedLikelihoodKernel::Backward<T> kernel) {
  auto* const to = static_cast<T*>(grad_x.mutable_data_ptr());
  auto* const to_parameters = static_cast<T*>(grad_parameters.mutable_data_ptr());
  torch::stable::parallel_for(0, planes.channels, 1, [&](int64_t first, int64_t last) {
    const size_t count = size_t(planes.count());
    std::vector<T> values(count), likelihoods(count), grads(count), results(count);  // grads are 0 in the padding
    double sums[kFactorizedParameters];
    for (int64_t c = first; c < last; ++c) {
      planes.of_channel(c, [&](int64_t plane, int64_t at) {
        std::copy_n(data_of<T>(x) + plane, planes.elements, values.data() + at);
        std::copy_n(data_of<T>(likelihood) + plane, planes.elements, likelihoods.data() + at);
        std::copy_n(data_of<T>(grad) + plane, planes.elements, grads.data() + at);
      });
      kernel(data_of<T>(parameters) + c * kFactorizedParameters, values.data(), likelihoods.data(), grads.data(), planes.count(),
             T(likelihood_min), results.data(), sums);
      planes.of_channel(c, [&](int64_t plane, int64_t at) { std::copy_n(results.data() + at, planes.elements, to + plane); });
      std::copy_n(sums, kFactorizedParameters, to_parameters + c * kFactorizedParameters);
    }
  });
}

Tensor factorized_likelihood(const Tensor& x, const Tensor& parameters, double likelihood_min) {
  const Planes planes = planes_of(x, parameters);
  Tensor result = empty_as(x);
  const FactorizedLikelihoodKernel& kernel = DKIC_CHOSEN(factorized_likelihood_kernel);
  if (x.scalar_type() == ScalarType::Double) {
    run_forward<double>(planes, x, parameters, likelihood_min, result, kernel.forward_double);
  } else {
    run_forward<float>(planes, x, parameters, likelihood_min, result, kernel.forward_float);
  }
  return result;
}

std::tuple<Tensor, Tensor> factorized_likelihood_backward(const Tensor& grad, const Tensor& x, const Tensor& parameters,
                                                          const Tensor& likelihood, double likelihood_min) {
  const Planes planes = planes_of(x, parameters);
  check_like(grad, x, "grad"), check_like(likelihood, x, "likelihood");
  Tensor grad_x = empty_as(x), grad_parameters = empty_as(parameters);
  const FactorizedLikelihoodKernel& kernel = DKIC_CHOSEN(factorized_likelihood_kernel);
  if (x.scalar_type() == ScalarType::Double) {
    run_backward<double>(planes, grad, x, parameters, likelihood, likelihood_min, grad_x, grad_parameters,
                         kernel.backward_double);
  } else {
    run_backward<float>(planes, grad, x, parameters, likelihood, likelihood_min, grad_x, grad_parameters, kernel.backward_float);
  }
  return {grad_x, grad_parameters};
}

}  // namespace
}  // namespace dkic

STABLE_TORCH_LIBRARY_IMPL(dkic, CPU, m) {
  m.impl("factorized_likelihood", TORCH_BOX(&dkic::factorized_likelihood));
  m.impl("factorized_likelihood_backward", TORCH_BOX(&dkic::factorized_likelihood_backward));
}
