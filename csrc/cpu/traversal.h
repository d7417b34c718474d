// Traversal of tensors of one shape with any strides, for elementwise kernels.
#pragma once
#include "common/strided.h"

namespace dkic {

// A sample is traversed in the memory order of the results, along at most this many axes (adjacent axes are merged).
constexpr int kTraversalAxes = 4;

// A strided operand of the traversal; strides count elements. data == nullptr: absent.
struct StridedOperand {
  const void* data;
  Scalar type;
  int64_t batch_stride, stride[kTraversalAxes];
};

struct Traversal {
  int64_t batch, elements;  // elements of one sample
  int axes;                 // at least 1
  int64_t size[kTraversalAxes];
};

// Work is divided into chunks of a sample by shape only, independent of the number of threads.
constexpr int64_t kTraversalChunk = 4096;
static inline int64_t chunks_of_sample(const Traversal& traversal) {
  return (traversal.elements + kTraversalChunk - 1) / kTraversalChunk;
}

}  // namespace dkic
