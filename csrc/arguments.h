// What the ops on images ask of their arguments, and the results that they allocate.
//
// The public Python functions check their arguments more helpfully; the checks here only keep direct callers of
// torch.ops.npr from reading memory that is not theirs.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "npr.h"

namespace npr {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline cpu::Type type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return cpu::Type::f32;
    case ScalarType::BFloat16: return cpu::Type::bf16;
    case ScalarType::Half: return cpu::Type::f16;
    case ScalarType::Double: return cpu::Type::f64;
    default: STD_TORCH_CHECK(false, "npr: dtype must be float32, bfloat16, float16 or float64"); std::abort();
  }
}

inline Images images_of(const Tensor& images) {
  STD_TORCH_CHECK(images.dim() == 4, "npr: images must be [N, C, H, W]");
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte, "npr: images must be uint8");
  STD_TORCH_CHECK(images.size(1) >= 1 && images.size(2) >= 2 && images.size(3) >= 2,
                  "npr: images must have at least 1 channel, 2 rows and 2 columns");
  return {static_cast<const uint8_t*>(images.data_ptr()),
          images.size(0),
          images.size(1),
          images.size(2),
          images.size(3),
          images.stride(0),
          images.stride(1),
          images.stride(2),
          images.stride(3)};
}

inline Residual find_residual(const std::string& name) {
  for (const Residual& residual : kResiduals) {
    if (name == residual.name) return residual;
  }
  STD_TORCH_CHECK(false, "npr: residual must be npr, haar or npr+haar, got ", name);
  std::abort();
}

inline Source source_of(const Tensor& images, const std::string& residual) {
  return {images_of(images), find_residual(residual)};
}

inline void check_weight(const Tensor& weight, const Source& source) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) >= 1 && weight.size(1) == source.weight_channels() &&
                      weight.size(2) == kKernel && weight.size(3) == kKernel,
                  "npr: weight must be [O, C, 3, 3] with the images' channels, once for each map of the residual");
}

inline void check_vector(const Tensor& vector, int64_t size, const char* name) {
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == size, "npr: ", name, " must be a vector of ", size);
}

inline void check_scale(const std::vector<double>& scale, const Source& source) {
  STD_TORCH_CHECK(int64_t(scale.size()) == source.weight_channels(),
                  "npr: channel_scale must have one value per channel of the weight");
}

inline Tensor empty(std::vector<int64_t> size, ScalarType type, const Tensor& like,
                    MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, format);
}

inline void check_grad(const Tensor& grad, const Images& images, int64_t rows, int64_t cols) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == images.batch && grad.size(1) >= 1 && grad.size(2) == rows &&
                      grad.size(3) == cols,
                  "npr: grad must have the shape of the result");
}

inline void check_moments(const Tensor& moments, const Source& source) {
  STD_TORCH_CHECK(moments.scalar_type() == ScalarType::Long && moments.is_contiguous(), "npr: moments must be int64");
  check_vector(moments, 1 + source.taps() + source.taps() * source.taps(), "moments");
}

inline void check_stem(const Source& source, const Tensor& weight, const std::optional<Tensor>& bn_weight,
                       const std::optional<Tensor>& bn_bias, const std::optional<Tensor>& moments,
                       const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
                       const std::vector<double>& channel_scale) {
  check_weight(weight, source);
  check_scale(channel_scale, source);
  STD_TORCH_CHECK(moments || (mean && var), "npr: stem needs moments, or mean and var");
  if (moments) check_moments(*moments, source);
  if (bn_weight) check_vector(*bn_weight, weight.size(0), "bn_weight");
  if (bn_bias) check_vector(*bn_bias, weight.size(0), "bn_bias");
  if (mean) check_vector(*mean, weight.size(0), "mean");
  if (var) check_vector(*var, weight.size(0), "var");
}

inline void check_pooled(const Tensor& grad, const Tensor& code, const Images& images, int64_t outputs) {
  check_grad(grad, images, pooled(images.rows()), pooled(images.cols()));
  STD_TORCH_CHECK(grad.size(1) == outputs, "npr: grad must have the weight's outputs");
  STD_TORCH_CHECK(code.dim() == 4 && code.scalar_type() == ScalarType::Byte, "npr: code must be uint8, [N, O, PH, PW]");
  for (int i = 0; i < 4; ++i) STD_TORCH_CHECK(code.size(i) == grad.size(i), "npr: code must have grad's shape");
}

inline Tensor to_type(const Tensor& tensor, ScalarType type) { return torch::stable::to(tensor, type); }

// A contiguous float64 copy of a parameter, unless it is one already; folding is done in double.
inline Tensor as_double(const Tensor& tensor) { return torch::stable::contiguous(to_type(tensor, ScalarType::Double)); }
inline const double* doubles(const Tensor& tensor) { return static_cast<const double*>(tensor.data_ptr()); }

// What the stem returns: the pooled map, its code (empty unless saved), and the statistics it used.
struct StemResults {
  StemResults(const Tensor& like, const Images& images, int64_t outputs, ScalarType dtype, bool save)
      : StemResults(like, {images.batch, outputs, pooled(images.rows()), pooled(images.cols())}, dtype, save) {}
  Tensor out, code, mean, var;

 private:
  StemResults(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype, bool save)
      : out(empty(shape, dtype, like, MemoryFormat::ChannelsLast)),
        code(save ? empty(shape, ScalarType::Byte, like, MemoryFormat::ChannelsLast)
                  : empty({0}, ScalarType::Byte, like)),
        mean(empty({shape[1]}, ScalarType::Double, like)),
        var(empty({shape[1]}, ScalarType::Double, like)) {}
};

}  // namespace npr
