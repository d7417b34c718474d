// Loops over neighbouring channels in vectors, and where the four pixels around a sample lie.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

// Calls block.template run<W, NV>(channel) so that [channel, depth) is covered: as many as 4 vectors at once, narrower ones for
// the rest.
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

// Likewise, with the vectors that suit the depth: 64 bytes only where they leave no rest. At 24 channels 16 and then 8 took half
// as long again as 3 times 8, at 48 channels 3 times 16 took a fifth less than 6 times 8.
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
