// The bridge to PyTorch, and the only file that knows it: the ops of namespace `npr`, on torch's stable
// ABI, and a small pybind11 module of facts about the build.
//
// An op checks its tensors, allocates results, folds the weights and hands raw pointers to the kernels.
// The public Python functions check their arguments more helpfully; the checks here only keep direct
// callers of torch.ops.npr from reading memory that is not theirs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "npr.h"
#include "stem_algebra.h"

namespace {

using npr::Images;
using torch::headeronly::DeviceType;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

npr::cpu::Type type_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return npr::cpu::Type::f32;
    case ScalarType::BFloat16: return npr::cpu::Type::bf16;
    case ScalarType::Half: return npr::cpu::Type::f16;
    case ScalarType::Double: return npr::cpu::Type::f64;
    default: STD_TORCH_CHECK(false, "npr: dtype must be float32, bfloat16, float16 or float64"); std::abort();
  }
}

Images images_of(const Tensor& images) {
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

void check_weight(const Tensor& weight, const Images& images) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) >= 1 && weight.size(1) == images.channels &&
                      weight.size(2) == npr::kKernel && weight.size(3) == npr::kKernel,
                  "npr: weight must be [O, C, 3, 3] with the images' channels");
}

void check_vector(const Tensor& vector, int64_t size, const char* name) {
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == size, "npr: ", name, " must be a vector of ", size);
}

void check_scale(const std::vector<double>& scale, const Images& images) {
  STD_TORCH_CHECK(int64_t(scale.size()) == images.channels, "npr: channel_scale must have one value per channel");
}

Tensor empty(std::vector<int64_t> size, ScalarType type, const Tensor& like,
             MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, format);
}

Tensor to_type(const Tensor& tensor, ScalarType type) { return torch::stable::to(tensor, type); }

// A contiguous float64 copy of a parameter, unless it is one already; folding is done in double.
Tensor as_double(const Tensor& tensor) { return torch::stable::contiguous(to_type(tensor, ScalarType::Double)); }
const double* doubles(const Tensor& tensor) { return static_cast<const double*>(tensor.data_ptr()); }

}  // namespace

// ---- CPU -------------------------------------------------------------------------------------------

namespace {

// Multiply-adds that are worth a thread of their own.
constexpr int64_t kGrain = 1 << 18;

int64_t grain(const Images& images, int64_t outputs) {
  return std::max<int64_t>(1, kGrain / (images.cols() * images.taps() * outputs));
}

// The weights in units of the integer difference, [outputs][taps]. The centre tap meets only zeros, but
// zero times infinity is NaN: a centre that is not finite makes its output NaN.
std::vector<double> fold(const Tensor& weight, const std::vector<double>& scale) {
  constexpr int64_t kPositions = npr::kKernel * npr::kKernel;
  const Tensor source = as_double(weight);
  const int64_t rows = weight.size(0) * weight.size(1), channels = weight.size(1);
  std::vector<double> folded(rows * npr::kTaps);
  for (int64_t row = 0; row < rows; ++row) {
    const double* from = doubles(source) + row * kPositions;
    const double factor = std::isfinite(from[kPositions / 2]) ? scale[row % channels] : NAN;
    for (int t = 0; t < npr::kTaps; ++t) folded[row * npr::kTaps + t] = from[npr::tap_position(t)] * factor;
  }
  return folded;
}

// The layout of the kernels: [taps][padded(outputs)] of T.
template <class T>
std::vector<T> pack(const std::vector<double>& folded, int64_t outputs) {
  const int64_t taps = int64_t(folded.size()) / outputs, stride = npr::cpu::padded(outputs);
  std::vector<T> packed(taps * stride);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t k = 0; k < taps; ++k) packed[k * stride + o] = T(folded[o * taps + k]);
  }
  return packed;
}
template <class T>
std::vector<T> pack(const double* vector, int64_t outputs) {
  std::vector<T> packed(npr::cpu::padded(outputs));
  std::copy_n(vector, outputs, packed.begin());
  return packed;
}

// Calls f with a zero of the type that the arithmetic of results of `type` uses.
template <class F>
void with_compute_type(npr::cpu::Type type, F&& f) {
  npr::cpu::compute_type(type) == npr::cpu::Type::f64 ? f(double{}) : f(float{});
}

Tensor conv2d_cpu(const Tensor& images, const Tensor& weight, const std::optional<Tensor>& bias,
                  std::vector<double> channel_scale, ScalarType out_dtype, bool channels_last, bool /*fast*/) {
  npr::cpu::ConvForward p{};
  p.images = images_of(images);
  check_weight(weight, p.images);
  check_scale(channel_scale, p.images);
  p.outputs = weight.size(0);
  if (bias) check_vector(*bias, p.outputs, "bias");
  p.type = type_of(out_dtype);
  p.channels_last = channels_last;
  Tensor out = empty({p.images.batch, p.outputs, p.images.rows(), p.images.cols()}, out_dtype, images,
                     channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  p.out = out.data_ptr();
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const auto packed = pack<T>(fold(weight, channel_scale), p.outputs);
    const auto shift =
        bias ? pack<T>(doubles(as_double(*bias)), p.outputs) : std::vector<T>(npr::cpu::padded(p.outputs));
    p.weight = packed.data();
    p.bias = shift.data();
    const auto kernel = npr::cpu::kernels().conv_forward;
    torch::stable::parallel_for(0, p.units(), grain(p.images, p.outputs),
                                [&](int64_t first, int64_t last) { kernel(p, first, last); });
  });
  return out;
}

// Sums partial[units][size] over its units in their order, whatever thread made them.
template <class T>
void sum_units(const T* partial, int64_t units, int64_t size, T* sum) {
  torch::stable::parallel_for(0, size, 1024, [&](int64_t first, int64_t last) {
    std::fill(sum + first, sum + last, T(0));
    for (int64_t unit = 0; unit < units; ++unit) {
      for (int64_t i = first; i < last; ++i) sum[i] += partial[unit * size + i];
    }
  });
}

// The weight's gradient [O, C, 3, 3] from that of its taps in units of d; the centre's is zero.
Tensor unfold_gradient(const double* taps, int64_t stride, int64_t outputs, const std::vector<double>& scale,
                       const Tensor& like, ScalarType dtype) {
  constexpr int64_t kPositions = npr::kKernel * npr::kKernel;
  const int64_t channels = int64_t(scale.size());
  Tensor gradient = empty({outputs, channels, npr::kKernel, npr::kKernel}, ScalarType::Double, like);
  double* to = static_cast<double*>(gradient.data_ptr());
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < channels; ++c, to += kPositions) {
      to[kPositions / 2] = 0;
      for (int t = 0; t < npr::kTaps; ++t) {
        to[npr::tap_position(t)] = taps[o * stride + c * npr::kTaps + t] * scale[c];
      }
    }
  }
  return to_type(gradient, dtype);
}

Tensor vector_of(const double* values, int64_t size, int64_t stride, const Tensor& like, ScalarType dtype) {
  Tensor vector = empty({size}, ScalarType::Double, like);
  for (int64_t i = 0; i < size; ++i) static_cast<double*>(vector.data_ptr())[i] = values[i * stride];
  return to_type(vector, dtype);
}

std::tuple<Tensor, Tensor> conv2d_backward_cpu(const Tensor& grad, const Tensor& images,
                                               std::vector<double> channel_scale, ScalarType weight_dtype, bool bias) {
  npr::cpu::ConvBackward p{};
  p.images = images_of(images);
  check_scale(channel_scale, p.images);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == p.images.batch && grad.size(1) >= 1 &&
                      grad.size(2) == p.images.rows() && grad.size(3) == p.images.cols(),
                  "npr: grad must be [N, O, H / 2, W / 2] of the images");
  p.outputs = grad.size(1);
  p.bias = bias;
  p.grad = grad.data_ptr();
  p.stride_n = grad.stride(0), p.stride_o = grad.stride(1), p.stride_h = grad.stride(2), p.stride_w = grad.stride(3);
  p.type = type_of(grad.scalar_type());

  const int64_t columns = p.images.taps() + 1, size = p.outputs * columns;
  const Tensor partial = empty({p.units(), size}, ScalarType::Double, images);
  p.partial = static_cast<double*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().conv_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  std::vector<double> sums(size);
  sum_units(p.partial, p.units(), size, sums.data());
  return {unfold_gradient(sums.data(), columns, p.outputs, channel_scale, images, weight_dtype),
          vector_of(sums.data() + columns - 1, bias ? p.outputs : 0, columns, images, weight_dtype)};
}

Tensor patch_moments_cpu(const Tensor& images) {
  npr::cpu::PatchMoments p{};
  p.images = images_of(images);
  const Tensor partial = empty({p.units(), p.size()}, ScalarType::Long, images);
  p.partial = static_cast<int64_t*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().patch_moments;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  Tensor moments = empty({p.size()}, ScalarType::Long, images);
  sum_units(p.partial, p.units(), p.size(), static_cast<int64_t*>(moments.data_ptr()));
  return moments;
}

void check_moments(const Tensor& moments, const Images& images) {
  STD_TORCH_CHECK(moments.scalar_type() == ScalarType::Long && moments.is_contiguous(), "npr: moments must be int64");
  check_vector(moments, 1 + images.taps() + images.taps() * images.taps(), "moments");
}

// True when no sum of products can leave the range of T, nor meet NaN or infinity.
template <class T>
bool stays_finite(const std::vector<double>& folded, const std::vector<double>& shift) {
  constexpr double kLargest = double(std::numeric_limits<T>::max()) / 4;
  const int64_t taps = int64_t(folded.size() / shift.size());
  for (size_t o = 0; o < shift.size(); ++o) {
    double bound = std::abs(shift[o]);
    for (int64_t k = 0; k < taps; ++k) bound += 255 * std::abs(folded[o * taps + k]);
    if (!(bound < kLargest)) return false;
  }
  return true;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> stem_cpu(const Tensor& images, const std::optional<Tensor>& moments,
                                                    const Tensor& weight, const std::optional<Tensor>& bn_weight,
                                                    const std::optional<Tensor>& bn_bias,
                                                    const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
                                                    double eps, std::vector<double> channel_scale, ScalarType out_dtype,
                                                    bool save, bool /*fast*/) {
  npr::cpu::StemForward p{};
  p.images = images_of(images);
  check_weight(weight, p.images);
  check_scale(channel_scale, p.images);
  const int64_t outputs = p.outputs = weight.size(0), taps = p.images.taps();
  if (bn_weight) check_vector(*bn_weight, outputs, "bn_weight");
  if (bn_bias) check_vector(*bn_bias, outputs, "bn_bias");
  std::vector<double> folded = fold(weight, channel_scale);

  Tensor used_mean = empty({outputs}, ScalarType::Double, images),
         used_var = empty({outputs}, ScalarType::Double, images);
  double* m = static_cast<double*>(used_mean.data_ptr());
  double* v = static_cast<double*>(used_var.data_ptr());
  if (moments) {
    check_moments(*moments, p.images);
    npr::batch_statistics({static_cast<const int64_t*>(moments->data_ptr()), taps}, folded.data(), outputs, m, v);
  } else {
    STD_TORCH_CHECK(mean && var, "npr: stem needs moments, or mean and var");
    check_vector(*mean, outputs, "mean");
    check_vector(*var, outputs, "var");
    std::copy_n(doubles(as_double(*mean)), outputs, m);
    std::copy_n(doubles(as_double(*var)), outputs, v);
  }

  std::vector<double> scale(outputs), shift(outputs);
  const Tensor gamma = bn_weight ? as_double(*bn_weight) : Tensor(), beta = bn_bias ? as_double(*bn_bias) : Tensor();
  for (int64_t o = 0; o < outputs; ++o) {
    scale[o] = (bn_weight ? doubles(gamma)[o] : 1) / std::sqrt(v[o] + eps);
    shift[o] = (bn_bias ? doubles(beta)[o] : 0) - scale[o] * m[o];
  }
  std::vector<double> scaled(folded);
  for (int64_t i = 0; i < outputs * taps; ++i) scaled[i] *= scale[i / taps];

  p.type = type_of(out_dtype);
  const std::vector<int64_t> shape = {p.images.batch, outputs, npr::pooled(p.images.rows()),
                                      npr::pooled(p.images.cols())};
  Tensor out = empty(shape, out_dtype, images, MemoryFormat::ChannelsLast);
  Tensor code =
      save ? empty(shape, ScalarType::Byte, images, MemoryFormat::ChannelsLast) : empty({0}, ScalarType::Byte, images);
  p.out = out.data_ptr();
  p.code = save ? static_cast<uint8_t*>(code.data_ptr()) : nullptr;
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const bool literal = !stays_finite<T>(scaled, shift);
    const auto packed_weight = pack<T>(literal ? folded : scaled, outputs);
    const auto packed_scale = pack<T>(scale.data(), outputs), packed_shift = pack<T>(shift.data(), outputs);
    p.weight = packed_weight.data();
    p.scale = literal ? packed_scale.data() : nullptr;
    p.shift = packed_shift.data();
    const auto kernel = npr::cpu::kernels().stem_forward;
    torch::stable::parallel_for(0, p.units(), grain(p.images, 2 * outputs),
                                [&](int64_t first, int64_t last) { kernel(p, first, last); });
  });
  return {out, code, used_mean, used_var};
}

std::tuple<Tensor, Tensor, Tensor> stem_backward_cpu(const Tensor& grad, const Tensor& images, const Tensor& code,
                                                     const std::optional<Tensor>& moments, const Tensor& weight,
                                                     const std::optional<Tensor>& bn_weight, const Tensor& mean,
                                                     const Tensor& var, double eps, std::vector<double> channel_scale) {
  npr::cpu::StemBackward p{};
  p.images = images_of(images);
  check_weight(weight, p.images);
  check_scale(channel_scale, p.images);
  const int64_t outputs = p.outputs = weight.size(0), taps = p.images.taps(), columns = taps + 1;
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == p.images.batch && grad.size(1) == outputs &&
                      grad.size(2) == npr::pooled(p.images.rows()) && grad.size(3) == npr::pooled(p.images.cols()),
                  "npr: grad must have the shape of the stem's output");
  STD_TORCH_CHECK(code.dim() == 4 && code.scalar_type() == ScalarType::Byte && code.numel() == grad.numel(),
                  "npr: code must be uint8, of grad's shape");
  check_vector(mean, outputs, "mean");
  check_vector(var, outputs, "var");
  if (moments) check_moments(*moments, p.images);
  if (bn_weight) check_vector(*bn_weight, outputs, "bn_weight");
  p.grad = grad.data_ptr();
  p.stride_n = grad.stride(0), p.stride_o = grad.stride(1), p.stride_h = grad.stride(2), p.stride_w = grad.stride(3);
  p.type = type_of(grad.scalar_type());
  const Tensor dense_code = torch::stable::contiguous(code, MemoryFormat::ChannelsLast);
  p.code = static_cast<const uint8_t*>(dense_code.data_ptr());

  const Tensor partial = empty({p.units(), outputs * columns}, ScalarType::Double, images);
  p.partial = static_cast<double*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().stem_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  std::vector<double> sums(outputs * columns);
  sum_units(p.partial, p.units(), outputs * columns, sums.data());

  const std::vector<double> folded = fold(weight, channel_scale);
  const Tensor gamma = bn_weight ? as_double(*bn_weight) : Tensor();
  const Tensor used_mean = as_double(mean), used_var = as_double(var);
  std::vector<double> dweight(outputs * taps), dgamma(outputs), dbeta(outputs);
  npr::stem_gradient(
      {outputs, taps, folded.data(), bn_weight ? doubles(gamma) : nullptr, doubles(used_mean), doubles(used_var), eps,
       sums.data(), moments ? static_cast<const int64_t*>(moments->data_ptr()) : nullptr},
      dweight.data(), dgamma.data(), dbeta.data());
  const ScalarType dtype = weight.scalar_type();
  return {unfold_gradient(dweight.data(), taps, outputs, channel_scale, images, dtype),
          vector_of(dgamma.data(), outputs, 1, images, dtype), vector_of(dbeta.data(), outputs, 1, images, dtype)};
}

}  // namespace

// ---- Registration ----------------------------------------------------------------------------------

STABLE_TORCH_LIBRARY(npr, m) {
  m.def(
      "conv2d(Tensor images, Tensor weight, Tensor? bias, float[] channel_scale, ScalarType out_dtype, "
      "bool channels_last, bool fast) -> Tensor");
  m.def(
      "conv2d_backward(Tensor grad, Tensor images, float[] channel_scale, ScalarType weight_dtype, bool bias) "
      "-> (Tensor, Tensor)");
  m.def("patch_moments(Tensor images) -> Tensor");
  m.def(
      "stem(Tensor images, Tensor? moments, Tensor weight, Tensor? bn_weight, Tensor? bn_bias, Tensor? mean, "
      "Tensor? var, float eps, float[] channel_scale, ScalarType out_dtype, bool save, bool fast) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "stem_backward(Tensor grad, Tensor images, Tensor code, Tensor? moments, Tensor weight, Tensor? bn_weight, "
      "Tensor mean, Tensor var, float eps, float[] channel_scale) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cpu));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cpu));
  m.impl("patch_moments", TORCH_BOX(&patch_moments_cpu));
  m.impl("stem", TORCH_BOX(&stem_cpu));
  m.impl("stem_backward", TORCH_BOX(&stem_backward_cpu));
}

namespace {

namespace py = pybind11;

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items;
  size_t begin = 0;
  while (begin < list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    items.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

py::dict build_info() {
  py::dict info;
  info["compiler"] = kCompiler;
  info["torch"] = NPR_BUILD_TORCH;
  info["cuda"] = NPR_BUILD_CUDA;
  info["cuda_targets"] = split(NPR_CUDA_TARGETS);
  return info;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (int i = 0; i < npr::cpu::supported().count; ++i) names.emplace_back(npr::cpu::supported().tables[i]->name);
  return names;
}

void select_instruction_set(const std::string& name) {
  if (npr::cpu::select(name.c_str())) return;
  std::string known;
  for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
  throw py::value_error("instruction set must be one of " + known + "; got '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the build of npr_kernels; importing it registers torch.ops.npr.";
  m.def("build_info", &build_info, "Compiler, torch and CUDA versions, and GPU targets that it was built with.");
  m.def("instruction_sets", &instruction_sets, "CPU instruction sets that run here, from the plainest to the best.");
  m.def("instruction_set", [] { return npr::cpu::kernels().name; }, "The CPU instruction set in use.");
  m.def("select_instruction_set", &select_instruction_set, "Uses another CPU instruction set; for tests.");
}
