// Bit sets of the four corners of a bilinear sample. Corner number c is (row c / 2, column c % 2).
#pragma once

namespace dkic {

constexpr int kCorners = 4;
constexpr int kCorner00 = 1 << 0, kCorner01 = 1 << 1, kCorner10 = 1 << 2, kCorner11 = 1 << 3;
constexpr int kAllCorners = (1 << kCorners) - 1;

}  // namespace dkic
