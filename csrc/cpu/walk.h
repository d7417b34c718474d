// The way through tensors of one shape and any strides that an elementwise kernel takes.
#pragma once
#include "common/strided.h"

namespace dkic {

// Samples are walked in the order in which results lie in memory, along at most this many axes (neighbours are merged).
constexpr int kWalkAxes = 4;

// A tensor as the walk sees it; strides count elements. data == nullptr: absent.
struct Walked {
  const void* data;
  Scalar type;
  int64_t batch_stride, stride[kWalkAxes];
};

struct Walk {
  int64_t batch, elements;  // elements of one sample
  int axes;                 // at least 1
  int64_t size[kWalkAxes];
};

// Work is cut into chunks of a sample by shape alone, never by the number of threads.
constexpr int64_t kWalkChunk = 4096;
static inline int64_t chunks_of_sample(const Walk& walk) { return (walk.elements + kWalkChunk - 1) / kWalkChunk; }

}  // namespace dkic
