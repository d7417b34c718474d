// Heap memory that is freed at the end of its scope; std::vector can't be used here, see simd.h.
#pragma once
#include "cpu/simd.h"

namespace dkic::DKIC_ISA {

template <class T>
class Buffer {
 public:
  // Initialized to zeros.
  explicit Buffer(int64_t size) : data_(new T[size_t(size)]()) {}
  ~Buffer() { delete[] data_; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }

 private:
  T* const data_;
};

}  // namespace dkic::DKIC_ISA
