// The Gaussian likelihood of a latent on the CPU, in one pass: noise or rounding, bits or likelihoods, their derivatives, and the
// sum of bits. Compiled once per instruction set (DKIC_ISA); gaussian_likelihood_cpu.cpp chooses one at run time.
#include "cpu/gaussian_likelihood_kernel.h"

#include "cpu/gaussian_tile.h"
#include "cpu/philox.h"
#include "cpu/traversal_tiles.h"

namespace dkic::DKIC_ISA {
namespace {

// The noise of element e of sample n is word e % 4 of the Philox block with counter (e / 4, n).
template <class T>
void draw_in_order(uint64_t seed, int64_t n, int64_t first, int count, T* noise) {
  using V = Philox::V;
  constexpr int W = Philox::W, kLanes = kVectorBytes / int(sizeof(T));
  V lane;
  for (int i = 0; i < W; ++i) lane[i] = uint64_t(i);
  for (int done = 0; done < count; done += 4 * W) {
    Philox philox(lane + uint64_t((first + done) / 4), V{} + uint64_t(n));
    philox.draw(seed);
    const V words01 = (philox.word[0] & 0xffffffffu) | philox.word[1] << 32;
    const V words23 = (philox.word[2] & 0xffffffffu) | philox.word[3] << 32;
    V blocks[2];
    interleave<W>(words01, words23, blocks);
    for (int i = 0; i < 4 * W; i += kLanes) {
      Vector<uint32_t, kLanes> word;
      std::memcpy(&word, reinterpret_cast<const char*>(blocks) + 4 * i, sizeof word);
      store<kLanes>(noise + done + i, centered<T, kLanes>(word));
    }
  }
}

// The same for elements in another order: of every block only one word is used.
template <class T>
void draw_strided(const GaussianLikelihoodArguments& a, int64_t n, int64_t first, int count, T* noise) {
  using V = Philox::V;
  constexpr int W = Philox::W;
  alignas(64) uint64_t element[kTile]{};
  for_runs(a.traversal, a.index_stride, first, count, [&](int done, int64_t number, int length) {
    for (int i = 0; i < length; ++i) element[done + i] = uint64_t(number + i * a.index_stride[a.traversal.axes - 1]);
  });
  for (int done = 0; done < count; done += W) {
    V e;
    std::memcpy(&e, element + done, sizeof e);
    Philox philox(e >> 2, V{} + uint64_t(n));
    philox.draw(a.seed);
    const V odd = (e & 1) != 0, high = (e & 2) != 0;
    const V low_words = odd ? philox.word[1] : philox.word[0], high_words = odd ? philox.word[3] : philox.word[2];
    const V word = high ? high_words : low_words;
    store<W>(noise + done, centered<T, W>(__builtin_convertvector(word, Vector<uint32_t, W>)));
  }
}

template <class T>
struct Forward {
  static constexpr int W = kVectorBytes / int(sizeof(T));
  static constexpr Scalar kType = sizeof(T) == 8 ? Scalar::f64 : Scalar::f32;
  using V = Vector<T, W>;

  const GaussianLikelihoodArguments& a;
  // Zero where not read: lanes past the last element are worked out too, and no tensor is read as one of zeros.
  alignas(64) T y[kTile]{}, scale[kTile]{}, mean[kTile]{}, noise[kTile]{};
  alignas(64) T y_hat[kTile]{}, bits[kTile]{}, by_v[kTile]{}, by_scale[kTile]{};
  alignas(64) T residual[kTile]{}, bounded_scale[kTile]{};
  GaussianTile<T> gaussian{};

  void chunk(int64_t number) {
    double total = 0;
    for_tiles(a.traversal, number, [&](int64_t n, int64_t first, int count, int64_t position) {
      if (a.by_v || a.by_scale) {
        tile<true>(n, first, count, position);
      } else {
        tile<false>(n, first, count, position);
      }
      if (a.sums) total += sum_of(a.bits && count == kTile ? static_cast<const T*>(a.bits) + position : bits, count);
    });
    if (a.sums) a.sums[number] = total;
  }

  template <bool kDerivatives>
  void tile(int64_t n, int64_t first, int count, int64_t position) {
    const T* y_from = read_tile(a.traversal, a.y, n, first, count, y);
    const T* scale_from = read_tile(a.traversal, a.scale, n, first, count, scale);
    const T* mean_from = a.mean.data ? read_tile(a.traversal, a.mean, n, first, count, mean) : mean;
    const T* noise_from = a.noise.data ? read_tile(a.traversal, a.noise, n, first, count, noise) : noise;
    if (a.drawn) {
      if (a.in_order) {
        draw_in_order(a.seed, n, first, count, noise);
      } else {
        draw_strided(a, n, first, count, noise);
      }
    }
    T* to_y_hat = a.y_hat ? tile_of_result(a.y_hat, a.y.type, position, count, y_hat) : y_hat;
    T* to_bits = a.bits ? tile_of_result(a.bits, kType, position, count, bits) : bits;
    T* to_v = a.by_v ? tile_of_result(a.by_v, kType, position, count, by_v) : by_v;
    T* to_scale = a.by_scale ? tile_of_result(a.by_scale, kType, position, count, by_scale) : by_scale;
    const T least = T(a.scale_min);
    for (int i = 0; i < count; i += W) {
      const V m = load<W>(mean_from + i), u = load<W>(noise_from + i), value = load<W>(y_from + i);
      const V v = a.rounded ? nearest<T, W>(value - m) : (value - m) + u;
      store<W>(to_y_hat + i, a.rounded ? v + m : value + u);
      const V s = load<W>(scale_from + i);
      store<W>(residual + i, v);
      store<W>(bounded_scale + i, Mask<T, W>::less(s, V{} + least).choose(V{} + least, s));  // NaN stays
    }
    if (a.likelihood) {
      gaussian.template work<BinOutput::likelihood, kDerivatives>(residual, bounded_scale, count, to_bits, to_v, to_scale);
      bound_likelihoods(count, to_bits);
    } else {
      gaussian.template work<BinOutput::bits, kDerivatives>(residual, bounded_scale, count, to_bits, to_v, to_scale);
    }
    if (a.y_hat) write_tile(a.y_hat, a.y.type, position, count, to_y_hat);
    if (a.bits) write_tile(a.bits, kType, position, count, to_bits);
    if (a.by_v) write_tile(a.by_v, kType, position, count, to_v);
    if (a.by_scale) write_tile(a.by_scale, kType, position, count, to_scale);
  }

  void bound_likelihoods(int count, T* likelihood) const {
    const V least = V{} + T(a.likelihood_min);
    for (int i = 0; i < count; i += W) {
      const V p = load<W>(likelihood + i);
      store<W>(likelihood + i, Mask<T, W>::less(p, least).choose(least, p));  // NaN stays
    }
  }

  static double sum_of(const T* values, int count) {
    Vector<double, W> lanes{};
    int i = 0;
    for (; i + W <= count; i += W) lanes += __builtin_convertvector(load<W>(values + i), Vector<double, W>);
    double total = sum<double, W>(lanes);
    for (; i < count; ++i) total += double(values[i]);
    return total;
  }
};

template <class T>
struct Backward {
  static constexpr int W = kVectorBytes / int(sizeof(T));
  static constexpr Scalar kType = sizeof(T) == 8 ? Scalar::f64 : Scalar::f32;
  using V = Vector<T, W>;

  const GaussianLikelihoodBackwardArguments& a;
  alignas(64) T grad_y_hat[kTile]{}, grad_bits[kTile]{}, by_v[kTile]{}, by_scale[kTile]{}, scale[kTile]{}, likelihood[kTile]{};
  alignas(64) T grad_y[kTile]{}, grad_scale[kTile]{}, grad_mean[kTile]{};

  void chunk(int64_t number) {
    for_tiles(a.traversal, number,
              [&](int64_t n, int64_t first, int count, int64_t position) { tile(n, first, count, position); });
  }

  void tile(int64_t n, int64_t first, int count, int64_t position) {
    const auto read = [&](const StridedOperand& t, T* buffer) -> const T* {
      return t.data ? read_tile(a.traversal, t, n, first, count, buffer) : buffer;
    };
    const auto place = [&](void* result, T* buffer) {
      return result ? tile_of_result(result, kType, position, count, buffer) : buffer;
    };
    const T *y_hat_from = read(a.grad_y_hat, grad_y_hat), *bits_from = read(a.grad_bits, grad_bits);
    const T *v_from = read(a.by_v, by_v), *s_from = read(a.by_scale, by_scale), *scale_from = read(a.scale, scale);
    const T* likelihood_from = read(a.likelihood, likelihood);
    T *to_y = place(a.grad_y, grad_y), *to_mean = place(a.grad_mean, grad_mean), *to_scale = place(a.grad_scale, grad_scale);
    // Without likelihoods none is at the bound; likelihoods that were not read are 0.
    const V zero{}, least = zero + (a.likelihood.data ? T(a.likelihood_min) : T(-1)), least_scale = zero + T(a.scale_min);
    for (int i = 0; i < count; i += W) {
      // At a bound, the gradient passes only if a descent step would increase the likelihood or the scale.
      const V grad = load<W>(bits_from + i), g = (load<W>(likelihood_from + i) <= least) & (grad > zero) ? zero : grad;
      const V by_residual = g * load<W>(v_from + i), by_bounded = g * load<W>(s_from + i);
      store<W>(to_y + i, load<W>(y_hat_from + i) + by_residual);
      store<W>(to_mean + i, -by_residual);
      store<W>(to_scale + i, (load<W>(scale_from + i) < least_scale) & (by_bounded > zero) ? zero : by_bounded);
    }
    if (a.grad_y) write_tile(a.grad_y, kType, position, count, to_y);
    if (a.grad_mean) write_tile(a.grad_mean, kType, position, count, to_mean);
    if (a.grad_scale) write_tile(a.grad_scale, kType, position, count, to_scale);
  }
};

template <template <class> class Pass, class Arguments>
void run(const Arguments& a, int64_t first, int64_t last) {
  const auto chunks = [&](auto& pass) {
    for (int64_t number = first; number < last; ++number) pass.chunk(number);
  };
  if (a.is_double) {
    Pass<double> pass{a};
    chunks(pass);
  } else {
    Pass<float> pass{a};
    chunks(pass);
  }
}

}  // namespace

extern const GaussianLikelihoodKernel gaussian_likelihood_kernel = {run<Forward, GaussianLikelihoodArguments>,
                                                                    run<Backward, GaussianLikelihoodBackwardArguments>};

}  // namespace dkic::DKIC_ISA
