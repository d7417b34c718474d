// Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): random words as a function of a counter and
// a key, so that any part of a sequence can be drawn anywhere.
#pragma once
#include <cstdint>

#include "simd.h"

namespace dkic::DKIC_ISA {

constexpr int kPhiloxLanes = 16;

// kPhiloxLanes counters of four words each, lane by lane; replaced by their random words.
struct PhiloxLanes {
  alignas(64) uint32_t word[4][kPhiloxLanes];

  inline void set(int lane, uint64_t low, uint64_t high) {
    word[0][lane] = uint32_t(low), word[1][lane] = uint32_t(low >> 32);
    word[2][lane] = uint32_t(high), word[3][lane] = uint32_t(high >> 32);
  }

  inline void draw(uint64_t key) {
    uint32_t key0 = uint32_t(key), key1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; ++round, key0 += 0x9e3779b9u, key1 += 0xbb67ae85u)
      for (int i = 0; i < kPhiloxLanes; ++i) {
        const uint64_t product0 = uint64_t(word[0][i]) * 0xd2511f53u, product1 = uint64_t(word[2][i]) * 0xcd9e8d57u;
        word[0][i] = uint32_t(product1 >> 32) ^ word[1][i] ^ key0;
        word[2][i] = uint32_t(product0 >> 32) ^ word[3][i] ^ key1;
        word[1][i] = uint32_t(product1);
        word[3][i] = uint32_t(product0);
      }
  }
};

// A number in [-1/2, 1/2): a multiple of 2^-24, so the same in float and in double.
template <class T>
inline T centred(uint32_t word) {
  return T(int32_t(word >> 8) - (1 << 23)) * T(0x1p-24);
}

}  // namespace dkic::DKIC_ISA
