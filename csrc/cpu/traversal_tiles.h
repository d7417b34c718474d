// Reads and writes the elements of a traversal (traversal.h) tile by tile, with any strides and types.
#pragma once
#include "cpu/simd.h"
#include "cpu/traversal.h"

namespace dkic::DKIC_ISA {

constexpr int kTile = 512;

// Calls f(n, first, count, position) for the tiles of a chunk: elements [first, first + count) of sample n; their results begin
// at `position`.
template <class F>
void for_tiles(const Traversal& traversal, int64_t chunk, const F& f) {
  const int64_t chunks = chunks_of_sample(traversal), n = chunk / chunks, begin = chunk % chunks * kTraversalChunk;
  const int64_t end = begin + kTraversalChunk < traversal.elements ? begin + kTraversalChunk : traversal.elements;
  for (int64_t first = begin; first < end; first += kTile)
    f(n, first, int(end - first < kTile ? end - first : kTile), n * traversal.elements + first);
}

template <class T>
inline auto to_number(T x) {
  return load<1>(&x)[0];
}

template <class T>
inline bool is_of_type(Scalar type) {
  return type == (sizeof(T) == 8 ? Scalar::f64 : Scalar::f32);
}

template <class From, class T>
inline void read_run(const From* from, int64_t stride, T* to, int64_t count) {
  constexpr int W = kVectorBytes / int(sizeof(T));
  int64_t i = 0;
  if constexpr (sizeof(From) <= 4 && sizeof(T) == 4)
    if (stride == 1)
      for (; i + W <= count; i += W) store<W>(to + i, load<W>(from + i));
  for (; i < count; ++i) to[i] = T(to_number(from[i * stride]));
}

// Calls f(done, offset, length) for the runs along the innermost axis in elements [first, first + count) of a sample. A run
// begins with element first + done, at `offset` from the sample's first element.
template <class F>
inline void for_runs(const Traversal& traversal, const int64_t* stride, int64_t first, int count, const F& f) {
  const int inner = traversal.axes - 1;
  int64_t position = first, offset = 0, at[kTraversalAxes];
  for (int axis = inner; axis >= 0; --axis) {
    at[axis] = position % traversal.size[axis];
    position /= traversal.size[axis];
    offset += at[axis] * stride[axis];
  }
  for (int done = 0; done < count;) {
    const int64_t rest = traversal.size[inner] - at[inner];
    const int length = rest < count - done ? int(rest) : count - done;
    f(done, offset, length);
    done += length;
    // Advance to the next run, with a carry at the end of an axis.
    offset -= at[inner] * stride[inner];
    at[inner] = 0;
    for (int axis = inner - 1; axis >= 0; --axis) {
      offset += stride[axis];
      if (++at[axis] < traversal.size[axis]) break;
      offset -= traversal.size[axis] * stride[axis];
      at[axis] = 0;
    }
  }
}

// Elements [first, first + count) of sample n as T: a pointer into the tensor if it is contiguous there and of this type, else to
// converted copies in `buffer`.
template <class T>
const T* read_tile(const Traversal& traversal, const StridedOperand& t, int64_t n, int64_t first, int count, T* buffer) {
  const int64_t stride = t.stride[traversal.axes - 1];
  const bool direct = stride == 1 && is_of_type<T>(t.type);
  // A contiguous sample, without for_runs' divisions (3 % of gaussian_likelihood's forward).
  if (direct && traversal.axes == 1 && count == kTile) return static_cast<const T*>(t.data) + n * t.batch_stride + first;
  const T* tile = buffer;
  for_runs(traversal, t.stride, first, count, [&](int done, int64_t offset, int length) {
    offset += n * t.batch_stride;
    if (direct && length == kTile) {
      tile = static_cast<const T*>(t.data) + offset;
    } else {
      with_scalar<half, bfloat16>(
          t.type, [&]<class From>() { read_run(static_cast<const From*>(t.data) + offset, stride, buffer + done, length); });
    }
  });
  return tile;
}

// The memory for a tile's results: the result tensor itself, or a buffer that write_tile copies.
template <class T>
inline T* tile_of_result(void* result, Scalar type, int64_t position, int count, T* buffer) {
  return is_of_type<T>(type) && count == kTile ? static_cast<T*>(result) + position : buffer;
}

template <class T>
inline void write_tile(void* result, Scalar type, int64_t position, int count, const T* from) {
  constexpr int W = kVectorBytes / int(sizeof(T));
  with_scalar<half, bfloat16>(type, [&]<class To>() {
    To* to = static_cast<To*>(result) + position;
    if (static_cast<const void*>(to) == from) return;
    if constexpr (sizeof(To) == sizeof(T)) {
      for (int i = 0; i < count; ++i) to[i] = from[i];
    } else if constexpr (sizeof(To) < sizeof(T)) {  // never wider: if any tensor is double, the op computes in double
      alignas(64) To narrow[kTile];
      for (int i = 0; i < kTile; i += W) store<W>(narrow + i, __builtin_convertvector(load<W>(from + i), Vector<float, W>));
      for (int i = 0; i < count; ++i) to[i] = narrow[i];
    }
  });
}

}  // namespace dkic::DKIC_ISA
