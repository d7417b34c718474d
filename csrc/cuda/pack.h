// N adjacent numbers that are read or written in one access, which requires alignment to their size.
#pragma once

namespace dkic {

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

}  // namespace dkic
