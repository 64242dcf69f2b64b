// What the ops of the network's body ask of the tensors that they get.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace npr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool contiguous(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type && tensor.is_contiguous() && tensor.is_cpu();
}

inline const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }

// Whether x [N, C, H, W] is dense with channels innermost; the strides of dimensions of one element do not matter.
inline bool channels_last(const Tensor& x) {
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (x.size(dim) > 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

}  // namespace npr
