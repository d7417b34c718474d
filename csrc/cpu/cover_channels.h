// Loops over adjacent channels in vectors, and the distances between the four corners of a sample.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

// Calls block.template run<W, NV>(channel) so that the calls cover [channel, depth): up to 4 vectors per call, narrower vectors
// for the rest.
template <class A, int W, bool Rest = false, class Block>
inline void cover_with(int64_t channel, int64_t depth, const Block& block) {
  if constexpr (!Rest) {
    for (; channel + 4 * W <= depth; channel += 4 * W) block.template run<W, 4>(channel);
    if (channel + 3 * W <= depth) block.template run<W, 3>(channel), channel += 3 * W;
    if (channel + 2 * W <= depth) block.template run<W, 2>(channel), channel += 2 * W;
  }
  if (channel + W <= depth) block.template run<W, 1>(channel), channel += W;
  if constexpr (W > 1)
    if (channel < depth) cover_with<A, W / 2, true>(channel, depth, block);
}

// As cover_with, with vectors of 64 bytes only if they leave no rest. With 24 channels, 16 + 8 takes 50 % longer than 3 x 8; with
// 48 channels, 3 x 16 takes 20 % less than 6 x 8.
template <class A, class Block>
inline void cover_channels(int64_t channel, int64_t depth, const Block& block) {
  constexpr int W = kVectorBytes / int(sizeof(A));
  if constexpr (kVectorBytes == 64)
    if ((depth - channel) % W) return cover_with<A, W / 2>(channel, depth, block);
  cover_with<A, W>(channel, depth, block);
}

// Distances, in elements, from a tap's corner (0, 0) to the three others.
struct Corners {
  int64_t h, w;
  int64_t operator[](int bit) const { return (bit & 2 ? h : 0) + (bit & 1 ? w : 0); }
};

}  // namespace dkic::DKIC_ISA
