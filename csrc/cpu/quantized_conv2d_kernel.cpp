// Convolution of integers on the CPU with int32 sums, and requantization: clamp(round((sum + bias) * multiplier)).
// Compiled once per instruction set (DKIC_ISA); quantized_conv2d_cpu.cpp chooses one at run time.
//
// An instruction multiplies pairs of int16 (pmaddwd), twice as many products as with float32; results are machine-independent.
#include "cpu/quantized_conv2d_kernel.h"

#include "cpu/rounded.h"

namespace dkic::DKIC_ISA {
namespace {

constexpr int W = kVectorBytes / 4, kParts = kGroup / W;  // registers of a group's sums
using V = Vector<float, W>;
using VI = Vector<int32_t, W>;

// sum + the dot products of a pair of channels, which all lanes share, with each lane's pair of weights.
inline VI plus_products(VI sum, VI pair, VI weights) {
#if defined(__AVX512BW__)
  return sum + bit_cast<VI>(_mm512_madd_epi16(bit_cast<__m512i>(pair), bit_cast<__m512i>(weights)));
#elif defined(__AVX2__)
  return sum + bit_cast<VI>(_mm256_madd_epi16(bit_cast<__m256i>(pair), bit_cast<__m256i>(weights)));
#elif defined(__SSE2__)
  return sum + bit_cast<VI>(_mm_madd_epi16(bit_cast<__m128i>(pair), bit_cast<__m128i>(weights)));
#else
  return sum + (pair << 16 >> 16) * (weights << 16 >> 16) + (pair >> 16) * (weights >> 16);
#endif
}

// Rows of x as int16, padded with zeros. Values that are not 16-bit integers become arbitrary integers.
void pad(const QuantizedConv2dArguments& a, const QuantizedConv2dBand& band) {
  const int64_t row = (a.width + 2 * a.padding) * a.pairs * 2, rows = (band.rows - 1) * a.stride + a.k;
  for (int64_t r = 0; r < rows; ++r) {
    int16_t* to = band.x + r * row;
    const int64_t y = band.first * a.stride + r - a.padding;
    if (a.padding || a.channels % 2) std::memset(to, 0, size_t(row) * sizeof(int16_t));
    if (y < 0 || y >= a.height) continue;
    const float* from = a.x + band.n * a.stride_n + y * a.stride_h;
    for (int64_t x = 0; x < a.width; ++x) {
      const float* pixel = from + x * a.stride_w;
      int16_t* numbers = to + (x + a.padding) * a.pairs * 2;
      int64_t c = 0;
      for (; a.stride_c == 1 && c + W <= a.channels; c += W) {
        const auto v = __builtin_convertvector(__builtin_convertvector(load<W>(pixel + c), VI), Vector<int16_t, W>);
        std::memcpy(numbers + c, &v, sizeof v);
      }
      for (; c < a.channels; ++c) {
        const float v = pixel[c * a.stride_c];
        numbers[c] = v > -32768.0f && v < 32768.0f ? int16_t(v) : int16_t(0);
      }
    }
  }
}

// Requantizes channels [c, c + length) of a pixel in whole registers; nothing beyond them is read or written.
template <bool kWhole>
inline void finish(const QuantizedConv2dArguments& a, VI sum, float* y, int64_t c, int64_t length) {
  const size_t bytes = kWhole ? sizeof(V) : size_t(length) * sizeof(float);
  VI bias{};
  V multiplier{};
  std::memcpy(&bias, a.bias + c, bytes);
  std::memcpy(&multiplier, a.multiplier + c, bytes);
  const V q = rounded_within(__builtin_convertvector(sum + bias, V) * multiplier, a.low, a.high);
  std::memcpy(y + c, &q, bytes);
}

struct Block {
  const int16_t* weight;  // of the first group
  int64_t group;          // elements from one group to the next
  int64_t channel;        // the first channel
};

// P output pixels of a band from `pixel` on (those from `last` on are computed and discarded), and the channels of G groups.
template <int P, int G>
inline void tile(const QuantizedConv2dArguments& a, const QuantizedConv2dBand& band, const Block& block, int64_t pixel,
                 int64_t last) {
  const int64_t row = (a.width + 2 * a.padding) * a.pairs * 2, length = a.k * a.pairs;  // length: pairs of a window's row
  const int16_t* at[P];
  for (int p = 0; p < P; ++p) {
    const int64_t i = pixel + p < last ? pixel + p : last - 1, y = i / a.out_width, x = i % a.out_width;
    at[p] = band.x + y * a.stride * row + x * a.stride * a.pairs * 2;
  }
  VI sums[P][G * kParts] = {};
  const int16_t* weight = block.weight;
  for (int64_t ky = 0; ky < a.k; ++ky) {
    for (int64_t i = 0; i < length; ++i, weight += kGroup * 2) {
      VI w[G * kParts];
      for (int g = 0; g < G; ++g)
        for (int part = 0; part < kParts; ++part)
          std::memcpy(&w[g * kParts + part], weight + g * block.group + part * W * 2, sizeof(VI));
      for (int p = 0; p < P; ++p) {
        int32_t pair;
        std::memcpy(&pair, at[p] + 2 * i, sizeof pair);
        const VI all = VI{} + pair;
        for (int j = 0; j < G * kParts; ++j) sums[p][j] = plus_products(sums[p][j], all, w[j]);
      }
    }
    for (int p = 0; p < P; ++p) at[p] += row;
  }
  for (int p = 0; p < P && pixel + p < last; ++p) {
    float* y = a.y + ((band.n * a.out_height + band.first) * a.out_width + pixel + p) * a.out;
    for (int j = 0; j < G * kParts; ++j) {
      const int64_t c = block.channel + j * W, left = a.out - c;
      if (left >= W) {
        finish<true>(a, sums[p][j], y, c, W);
      } else if (left > 0) {
        finish<false>(a, sums[p][j], y, c, left);
      }
    }
  }
}

template <int P, int G>
void tiles(const QuantizedConv2dArguments& a, const QuantizedConv2dBand& band, const Block& block) {
  const int64_t last = band.rows * a.out_width;
  for (int64_t pixel = 0; pixel < last; pixel += P) tile<P, G>(a, band, block, pixel, last);
}

// The outer loop is over blocks of groups: a block's weights stay in the cache for all pixels.
void run(const QuantizedConv2dArguments& a, const QuantizedConv2dBand& band) {
  const int64_t groups = (a.out + kGroup - 1) / kGroup, size = a.k * a.k * a.pairs * kGroup * 2;
  for (int64_t g = 0; g < groups;) {
    const Block block{a.weight + g * size, size, g * kGroup};
#if defined(__AVX512F__)
    const int64_t left = groups - g;
    // 24 sums; together with the weights they fit into 32 registers.
    if (left % 4 == 0 || left > 6) {
      tiles<6, 4>(a, band, block), g += 4;
    } else if (left % 3 == 0) {
      tiles<8, 3>(a, band, block), g += 3;
    } else if (left >= 2) {
      tiles<12, 2>(a, band, block), g += 2;
    } else {
      tiles<12, 1>(a, band, block), g += 1;
    }
#else
    tiles<kParts == 2 ? 4 : 2, 1>(a, band, block), g += 1;
#endif
  }
}

}  // namespace

extern const QuantizedConv2dKernel quantized_conv2d_kernel = {pad, run};

}  // namespace dkic::DKIC_ISA
