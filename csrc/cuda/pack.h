// N numbers that lie side by side and are read or written in one access, as the hardware wants them: aligned to their size.
#pragma once

namespace dkic {

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

}  // namespace dkic
