// Loops over neighbouring channels in vectors, and where the four pixels around a sample lie.
#pragma once
#include "simd.h"

namespace dkic::DKIC_ISA {

// Calls block.template run<W, NV>(channel) so that [0, depth) is covered: as many as 4 full vectors at once, narrower ones for
// the rest.
template <class A, int W = kVectorBytes / int(sizeof(A)), class Block>
inline void cover_channels(int64_t channel, int64_t depth, const Block& block) {
  if constexpr (W == kVectorBytes / int(sizeof(A))) {
    for (; channel + 4 * W <= depth; channel += 4 * W) block.template run<W, 4>(channel);
    if (channel + 3 * W <= depth) block.template run<W, 3>(channel), channel += 3 * W;
    if (channel + 2 * W <= depth) block.template run<W, 2>(channel), channel += 2 * W;
  }
  if (channel + W <= depth) block.template run<W, 1>(channel), channel += W;
  if constexpr (W > 1)
    if (channel < depth) cover_channels<A, W / 2>(channel, depth, block);
}

// Distances, in elements, from a tap's corner (0, 0) to the three others.
struct Corners {
  int64_t h, w;
  int64_t operator[](int bit) const { return (bit & 2 ? h : 0) + (bit & 1 ? w : 0); }
};

}  // namespace dkic::DKIC_ISA
