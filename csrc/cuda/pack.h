// N adjacent elements for one memory access, which requires alignment to their total size.
#pragma once

namespace dkic {

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

}  // namespace dkic
