// Creates the traversal (traversal.h) of torch tensors, and runs a kernel along it.
#pragma once
#include <algorithm>

#include "common/stable_abi.h"
#include "cpu/traversal.h"

namespace dkic {

inline Shape shape_of(const Tensor& t) {
  Shape shape;
  for (int64_t axis = 0; axis < t.dim(); ++axis) shape.push_back(t.size(axis));
  return shape;
}

// Whether results that correspond to t are channels_last; the fake kernels follow the same rule.
inline bool channels_innermost(const Tensor& t) { return (t.dim() == 4 || t.dim() == 5) && t.stride(1) == 1; }

inline Tensor empty_result(const Tensor& like, ScalarType type, bool channels_last) {
  const auto format = !channels_last    ? MemoryFormat::Contiguous
                      : like.dim() == 4 ? MemoryFormat::ChannelsLast
                                        : MemoryFormat::ChannelsLast3d;
  return torch::stable::empty(shape_of(like), type, std::nullopt, like.device(), std::nullopt, format);
}

// A tensor with one stride per axis, as input of the traversal's construction.
struct Operand {
  const void* data = nullptr;
  Scalar type = Scalar::f32;
  Shape strides;
};

inline Operand operand(const Tensor& t, const Shape& shape, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && shape_of(t) == shape, name, " must be on the CPU and have the shape of the others");
  Operand result{t.const_data_ptr(), scalar_of(t, name), {}};
  for (int64_t axis = 0; axis < t.dim(); ++axis) result.strides.push_back(t.stride(axis));
  return result;
}

inline Operand optional_operand(const std::optional<Tensor>& t, const Shape& shape, const char* name) {
  return t ? operand(*t, shape, name) : Operand{nullptr, Scalar::f32, Shape(shape.size(), 0)};
}

// The axes after the batch, innermost last; adjacent axes are merged if every operand allows it. nullopt if more than
// kTraversalAxes are left: then the caller makes contiguous copies first.
inline std::optional<Traversal> make_traversal(const Shape& shape, bool channels_last, const std::vector<Operand>& operands,
                                               std::vector<StridedOperand>& traversed) {
  std::vector<size_t> axes;
  for (size_t axis = channels_last ? 2 : 1; axis < shape.size(); ++axis) axes.push_back(axis);
  if (channels_last) axes.push_back(1);

  Traversal traversal{shape[0], 1, 0, {}};
  traversed.clear();
  for (const Operand& o : operands) traversed.push_back({o.data, o.type, o.strides[0], {}});
  // The strides of a tensor without elements have no meaning, and a copy would not change that.
  const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
  for (const size_t axis : axes) {
    traversal.elements *= shape[axis];
    if (shape[axis] == 1 || empty) continue;
    bool merges = traversal.axes > 0;
    for (size_t i = 0; i < operands.size() && merges; ++i)
      merges = traversed[i].stride[traversal.axes - 1] == operands[i].strides[axis] * shape[axis];
    if (!merges) {
      if (traversal.axes == kTraversalAxes) return std::nullopt;
      traversal.size[traversal.axes++] = 1;
    }
    traversal.size[traversal.axes - 1] *= shape[axis];
    for (size_t i = 0; i < operands.size(); ++i) traversed[i].stride[traversal.axes - 1] = operands[i].strides[axis];
  }
  if (traversal.axes == 0) traversal.size[traversal.axes++] = 1;
  return traversal;
}

// Calls f(first, last) for ranges of all chunks, on several threads.
template <class F>
void for_chunks(const Traversal& traversal, const F& f) {
  torch::stable::parallel_for(0, traversal.batch * chunks_of_sample(traversal), 1, f);
}

}  // namespace dkic
