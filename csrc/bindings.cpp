// The bridge to PyTorch, and the only file that knows it: the ops of namespace `npr`, on torch's stable
// ABI, and a small pybind11 module of facts about the build.
//
// An op checks its tensors, allocates results, folds the weights and hands raw pointers to the kernels.
// The public Python functions check their arguments more helpfully; the checks here only keep direct
// callers of torch.ops.npr from reading memory that is not theirs.
//
// pybind11's headers come before torch's, whose bundled copy of pybind11 does not compile under TORCH_STABLE_ONLY.
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
#include "cpu/memory.h"
#include "npr.h"
#include "stem_algebra.h"
#if defined(NPR_WITH_CUDA)
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/kernels.h"
#endif

namespace {

using npr::Images;
using npr::Residual;
using npr::Source;
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

Residual find_residual(const std::string& name) {
  for (const Residual& residual : npr::kResiduals) {
    if (name == residual.name) return residual;
  }
  STD_TORCH_CHECK(false, "npr: residual must be npr, haar or npr+haar, got ", name);
  std::abort();
}

Source source_of(const Tensor& images, const std::string& residual) {
  return {images_of(images), find_residual(residual)};
}

void check_weight(const Tensor& weight, const Source& source) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) >= 1 && weight.size(1) == source.weight_channels() &&
                      weight.size(2) == npr::kKernel && weight.size(3) == npr::kKernel,
                  "npr: weight must be [O, C, 3, 3] with the images' channels, once for each map of the residual");
}

void check_vector(const Tensor& vector, int64_t size, const char* name) {
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == size, "npr: ", name, " must be a vector of ", size);
}

void check_scale(const std::vector<double>& scale, const Source& source) {
  STD_TORCH_CHECK(int64_t(scale.size()) == source.weight_channels(),
                  "npr: channel_scale must have one value per channel of the weight");
}

Tensor empty(std::vector<int64_t> size, ScalarType type, const Tensor& like,
             MemoryFormat format = MemoryFormat::Contiguous) {
  return torch::stable::empty(size, type, std::nullopt, like.device(), std::nullopt, format);
}

void check_grad(const Tensor& grad, const Images& images, int64_t rows, int64_t cols) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == images.batch && grad.size(1) >= 1 && grad.size(2) == rows &&
                      grad.size(3) == cols,
                  "npr: grad must have the shape of the result");
}

void check_moments(const Tensor& moments, const Source& source) {
  STD_TORCH_CHECK(moments.scalar_type() == ScalarType::Long && moments.is_contiguous(), "npr: moments must be int64");
  check_vector(moments, 1 + source.taps() + source.taps() * source.taps(), "moments");
}

void check_stem(const Source& source, const Tensor& weight, const std::optional<Tensor>& bn_weight,
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

void check_pooled(const Tensor& grad, const Tensor& code, const Images& images, int64_t outputs) {
  check_grad(grad, images, npr::pooled(images.rows()), npr::pooled(images.cols()));
  STD_TORCH_CHECK(grad.size(1) == outputs, "npr: grad must have the weight's outputs");
  STD_TORCH_CHECK(code.dim() == 4 && code.scalar_type() == ScalarType::Byte, "npr: code must be uint8, [N, O, PH, PW]");
  for (int i = 0; i < 4; ++i) STD_TORCH_CHECK(code.size(i) == grad.size(i), "npr: code must have grad's shape");
}

Tensor to_type(const Tensor& tensor, ScalarType type) { return torch::stable::to(tensor, type); }

// A contiguous float64 copy of a parameter, unless it is one already; folding is done in double.
Tensor as_double(const Tensor& tensor) { return torch::stable::contiguous(to_type(tensor, ScalarType::Double)); }
const double* doubles(const Tensor& tensor) { return static_cast<const double*>(tensor.data_ptr()); }

// What the stem returns: the pooled map, its code (empty unless saved), and the statistics it used.
struct StemResults {
  StemResults(const Tensor& like, const Images& images, int64_t outputs, ScalarType dtype, bool save)
      : StemResults(like, {images.batch, outputs, npr::pooled(images.rows()), npr::pooled(images.cols())}, dtype,
                    save) {}
  Tensor out, code, mean, var;

 private:
  StemResults(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype, bool save)
      : out(empty(shape, dtype, like, MemoryFormat::ChannelsLast)),
        code(save ? empty(shape, ScalarType::Byte, like, MemoryFormat::ChannelsLast)
                  : empty({0}, ScalarType::Byte, like)),
        mean(empty({shape[1]}, ScalarType::Double, like)),
        var(empty({shape[1]}, ScalarType::Double, like)) {}
};

}  // namespace

// ---- CPU -------------------------------------------------------------------------------------------

namespace {

// Multiply-adds that are worth a thread of their own.
constexpr int64_t kGrain = 1 << 18;

int64_t grain(const Source& source, int64_t outputs) {
  return std::max<int64_t>(1, kGrain / (source.images.cols() * source.taps() * outputs));
}

// Calls f(channel, map) for each channel of the weight.
template <class F>
void for_each_weight_channel(const Source& source, F&& f) {
  for (int64_t q = 0; q < source.weight_channels(); ++q) f(q, source.residual.map[q / source.images.channels]);
}

// The weights in units of the integer difference, [outputs][taps]. A dead centre tap meets only zeros, but
// zero times infinity is NaN: a centre that is not finite makes its output NaN.
std::vector<double> fold(const Tensor& weight, const Source& source, const std::vector<double>& scale) {
  const Tensor contiguous = as_double(weight);
  const double* from = doubles(contiguous);
  std::vector<double> folded;
  folded.reserve(weight.size(0) * source.taps());
  for (int64_t o = 0; o < weight.size(0); ++o) {
    for_each_weight_channel(source, [&](int64_t q, npr::Map map) {
      const bool spoilt = npr::dead_centre(map) && !std::isfinite(from[npr::kPositions / 2]);
      for (int t = 0; t < taps_of(map); ++t) folded.push_back(from[tap_position(map, t)] * (spoilt ? NAN : scale[q]));
      from += npr::kPositions;
    });
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

// A problem of the kernels' with its source, and zeros where its other members will be.
template <class Problem>
Problem problem(const Tensor& images, const std::string& residual) {
  Problem p{};
  static_cast<Source&>(p) = source_of(images, residual);
  return p;
}

Tensor conv2d_cpu(const Tensor& images, const Tensor& weight, const std::optional<Tensor>& bias,
                  std::vector<double> channel_scale, ScalarType out_dtype, bool channels_last, bool /*fast*/,
                  std::string residual) {
  auto p = problem<npr::cpu::ConvForward>(images, residual);
  check_weight(weight, p);
  check_scale(channel_scale, p);
  p.outputs = weight.size(0);
  if (bias) check_vector(*bias, p.outputs, "bias");
  p.type = type_of(out_dtype);
  p.channels_last = channels_last;
  Tensor out = empty({p.images.batch, p.outputs, p.images.rows(), p.images.cols()}, out_dtype, images,
                     channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  p.out = out.data_ptr();
  const size_t bytes = out.numel() * size_of(p.type);
  npr::cpu::expect_writes(p.out, bytes);
  p.past_caches = bytes > npr::cpu::kCacheShare;
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const auto packed = pack<T>(fold(weight, p, channel_scale), p.outputs);
    const auto shift =
        bias ? pack<T>(doubles(as_double(*bias)), p.outputs) : std::vector<T>(npr::cpu::padded(p.outputs));
    p.weight = packed.data();
    p.bias = shift.data();
    const auto kernel = npr::cpu::kernels().conv_forward;
    torch::stable::parallel_for(0, p.units(), grain(p, p.outputs),
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

// The weight's gradient from that of its taps in units of d, [outputs] rows of taps, `stride` apart; a dead centre's
// is zero.
Tensor unfold_gradient(const double* taps, int64_t stride, int64_t outputs, const Source& source,
                       const std::vector<double>& scale, const Tensor& like, ScalarType dtype) {
  Tensor gradient = empty({outputs, source.weight_channels(), npr::kKernel, npr::kKernel}, ScalarType::Double, like);
  double* to = static_cast<double*>(gradient.data_ptr());
  for (int64_t o = 0; o < outputs; ++o) {
    const double* from = taps + o * stride;
    for_each_weight_channel(source, [&](int64_t q, npr::Map map) {
      to[npr::kPositions / 2] = 0;
      for (int t = 0; t < taps_of(map); ++t) to[tap_position(map, t)] = *from++ * scale[q];
      to += npr::kPositions;
    });
  }
  return to_type(gradient, dtype);
}

Tensor vector_of(const double* values, int64_t size, int64_t stride, const Tensor& like, ScalarType dtype) {
  Tensor vector = empty({size}, ScalarType::Double, like);
  for (int64_t i = 0; i < size; ++i) static_cast<double*>(vector.data_ptr())[i] = values[i * stride];
  return to_type(vector, dtype);
}

std::tuple<Tensor, Tensor> conv2d_backward_cpu(const Tensor& grad, const Tensor& images,
                                               std::vector<double> channel_scale, ScalarType weight_dtype, bool bias,
                                               std::string residual) {
  auto p = problem<npr::cpu::ConvBackward>(images, residual);
  check_scale(channel_scale, p);
  check_grad(grad, p.images, p.images.rows(), p.images.cols());
  p.outputs = grad.size(1);
  p.bias = bias;
  p.grad = grad.data_ptr();
  p.stride_n = grad.stride(0), p.stride_o = grad.stride(1), p.stride_h = grad.stride(2), p.stride_w = grad.stride(3);
  p.type = type_of(grad.scalar_type());

  const int64_t columns = p.taps() + 1, size = p.outputs * columns;
  const Tensor partial = empty({p.units(), size}, ScalarType::Double, images);
  p.partial = static_cast<double*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().conv_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  std::vector<double> sums(size);
  sum_units(p.partial, p.units(), size, sums.data());
  return {unfold_gradient(sums.data(), columns, p.outputs, p, channel_scale, images, weight_dtype),
          vector_of(sums.data() + columns - 1, bias ? p.outputs : 0, columns, images, weight_dtype)};
}

Tensor patch_moments_cpu(const Tensor& images, std::string residual) {
  auto p = problem<npr::cpu::PatchMoments>(images, residual);
  const Tensor partial = empty({p.units(), p.size()}, ScalarType::Long, images);
  p.partial = static_cast<int64_t*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().patch_moments;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  Tensor moments = empty({p.size()}, ScalarType::Long, images);
  sum_units(p.partial, p.units(), p.size(), static_cast<int64_t*>(moments.data_ptr()));
  return moments;
}

// True when no sum of products of differences up to `largest` can leave the range of T, nor meet NaN or infinity.
template <class T>
bool stays_finite(const std::vector<double>& folded, const std::vector<double>& shift, int largest) {
  constexpr double kLargest = double(std::numeric_limits<T>::max()) / 4;
  const int64_t taps = int64_t(folded.size() / shift.size());
  for (size_t o = 0; o < shift.size(); ++o) {
    double bound = std::abs(shift[o]);
    for (int64_t k = 0; k < taps; ++k) bound += largest * std::abs(folded[o * taps + k]);
    if (!(bound < kLargest)) return false;
  }
  return true;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> stem_cpu(const Tensor& images, const std::optional<Tensor>& moments,
                                                    const Tensor& weight, const std::optional<Tensor>& bn_weight,
                                                    const std::optional<Tensor>& bn_bias,
                                                    const std::optional<Tensor>& mean, const std::optional<Tensor>& var,
                                                    double eps, std::vector<double> channel_scale, ScalarType out_dtype,
                                                    bool save, bool /*fast*/, std::string residual) {
  auto p = problem<npr::cpu::StemForward>(images, residual);
  check_stem(p, weight, bn_weight, bn_bias, moments, mean, var, channel_scale);
  const int64_t outputs = p.outputs = weight.size(0), taps = p.taps();
  const StemResults results(images, p.images, outputs, out_dtype, save);
  const std::vector<double> folded = fold(weight, p, channel_scale);
  double* m = static_cast<double*>(results.mean.data_ptr());
  double* v = static_cast<double*>(results.var.data_ptr());
  if (moments) {
    npr::batch_statistics({static_cast<const int64_t*>(moments->data_ptr()), taps}, folded.data(), outputs, m, v);
  } else {
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
  p.out = results.out.data_ptr();
  npr::cpu::expect_writes(p.out, results.out.numel() * size_of(p.type));
  p.code = save ? static_cast<uint8_t*>(results.code.data_ptr()) : nullptr;
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const bool literal = !stays_finite<T>(scaled, shift, p.residual.largest);
    const auto packed_weight = pack<T>(literal ? folded : scaled, outputs);
    const auto packed_scale = pack<T>(scale.data(), outputs), packed_shift = pack<T>(shift.data(), outputs);
    p.weight = packed_weight.data();
    p.scale = literal ? packed_scale.data() : nullptr;
    p.shift = packed_shift.data();
    const auto kernel = npr::cpu::kernels().stem_forward;
    torch::stable::parallel_for(0, p.units(), grain(p, 2 * outputs),
                                [&](int64_t first, int64_t last) { kernel(p, first, last); });
  });
  return {results.out, results.code, results.mean, results.var};
}

std::tuple<Tensor, Tensor, Tensor> stem_backward_cpu(const Tensor& grad, const Tensor& images, const Tensor& code,
                                                     const std::optional<Tensor>& moments, const Tensor& weight,
                                                     const std::optional<Tensor>& bn_weight, const Tensor& mean,
                                                     const Tensor& var, double eps, std::vector<double> channel_scale,
                                                     std::string residual) {
  auto p = problem<npr::cpu::StemBackward>(images, residual);
  check_stem(p, weight, bn_weight, std::nullopt, moments, mean, var, channel_scale);
  check_pooled(grad, code, p.images, weight.size(0));
  const int64_t outputs = p.outputs = weight.size(0), taps = p.taps(), columns = taps + 1;
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

  const std::vector<double> folded = fold(weight, p, channel_scale);
  const Tensor gamma = bn_weight ? as_double(*bn_weight) : Tensor();
  const Tensor used_mean = as_double(mean), used_var = as_double(var);
  std::vector<double> dweight(outputs * taps), dgamma(outputs), dbeta(outputs);
  npr::stem_gradient(
      {outputs, taps, folded.data(), bn_weight ? doubles(gamma) : nullptr, doubles(used_mean), doubles(used_var), eps,
       sums.data(), moments ? static_cast<const int64_t*>(moments->data_ptr()) : nullptr},
      dweight.data(), dgamma.data(), dbeta.data());
  const ScalarType dtype = weight.scalar_type();
  return {unfold_gradient(dweight.data(), taps, outputs, p, channel_scale, images, dtype),
          vector_of(dgamma.data(), outputs, 1, images, dtype), vector_of(dbeta.data(), outputs, 1, images, dtype)};
}

}  // namespace

// ---- CUDA ------------------------------------------------------------------------------------------

#if defined(NPR_WITH_CUDA)

namespace {

namespace cuda = npr::cuda;

cuda::Type cuda_type(ScalarType type) {
  switch (type_of(type)) {
    case npr::cpu::Type::f32: return cuda::Type::f32;
    case npr::cpu::Type::bf16: return cuda::Type::bf16;
    case npr::cpu::Type::f16: return cuda::Type::f16;
    default: return cuda::Type::f64;
  }
}

// torch's current stream of a device. Its accessor lives in libtorch_cuda, which a CPU build of torch lacks, so it is
// looked up when it is first needed.
cuda::Stream current_stream(int32_t device) {
  using Accessor = AOTITorchError (*)(int32_t, void**);
  static const Accessor accessor = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Accessor>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(accessor != nullptr, "npr: this torch has no CUDA streams");
  void* stream = nullptr;
  STD_TORCH_CHECK(accessor(device, &stream) == 0, "npr: torch's current CUDA stream cannot be had");
  return static_cast<cuda::Stream>(stream);
}

// Sets what an operation reads.
Source read(cuda::Reading& p, const Tensor& images, const std::string& residual) {
  const Source source = source_of(images, residual);
  p.images = source.images;
  while (residual != npr::kResiduals[p.residual].name) ++p.residual;
  return source;
}

void check_device(const Tensor& tensor, const Tensor& images, const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == images.get_device_index(), "npr: ", name,
                  " must be on the images' device");
}

// A contiguous tensor and the view of it that the kernels take; keeps the tensor alive.
struct Parameter {
  Parameter(const std::optional<Tensor>& source, const Tensor& images, const char* name) {
    if (!source) return;
    check_device(*source, images, name);
    tensor = torch::stable::contiguous(*source);
    array = {tensor.data_ptr(), cuda_type(tensor.scalar_type())};
  }
  Tensor tensor;
  cuda::Array array;
};

cuda::Gradient gradient_of(const Tensor& grad, const Tensor& images) {
  check_device(grad, images, "grad");
  return {grad.data_ptr(), cuda_type(grad.scalar_type()), grad.stride(0), grad.stride(1), grad.stride(2),
          grad.stride(3)};
}

void check_status(const cuda::Status& status) {
  STD_TORCH_CHECK(status.ok(), "npr: CUDA: ", status.step, ": ", status.error,
                  status.of_runtime
                      ? " (its own error, or that of an earlier kernel on this device, whoever's; set NPR_CUDA_SYNC=1 "
                        "to have each kernel waited for)"
                      : "");
}

// Runs an operation on the images' device and torch's current stream, with the workspace it asks for. The kernels
// have a CUDA runtime of their own, which works in the thread's current context: the one that torch's guard sets.
template <class Problem>
void run(const Problem& problem, int64_t (*workspace_size)(const Problem&, cuda::Device),
         cuda::Status (*operation)(const Problem&, cuda::Device, void*, cuda::Stream), const Tensor& images) {
  const torch::stable::accelerator::DeviceGuard guard(images.get_device_index());
  cuda::Device device;
  check_status(cuda::current_device(device));
  const Tensor workspace = empty({workspace_size(problem, device)}, ScalarType::Byte, images);
  check_status(operation(problem, device, workspace.data_ptr(), current_stream(images.get_device_index())));
}

Tensor conv2d_cuda(const Tensor& images, const Tensor& weight, const std::optional<Tensor>& bias,
                   std::vector<double> channel_scale, ScalarType out_dtype, bool channels_last, bool fast,
                   std::string residual) {
  cuda::ConvForward p{};
  const Source source = read(p, images, residual);
  check_weight(weight, source);
  check_scale(channel_scale, source);
  p.outputs = weight.size(0);
  if (bias) check_vector(*bias, p.outputs, "bias");
  const Parameter weights(weight, images, "weight"), shift(bias, images, "bias");
  p.weight = weights.array, p.bias = shift.array;
  p.channel_scale = channel_scale.data();
  p.type = cuda_type(out_dtype);
  p.channels_last = channels_last;
  p.fast = fast;
  Tensor out = empty({p.images.batch, p.outputs, p.images.rows(), p.images.cols()}, out_dtype, images,
                     channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  p.out = out.data_ptr();
  run(p, cuda::conv_forward_workspace, cuda::conv_forward, images);
  return out;
}

std::tuple<Tensor, Tensor> conv2d_backward_cuda(const Tensor& grad, const Tensor& images,
                                                std::vector<double> channel_scale, ScalarType weight_dtype, bool bias,
                                                std::string residual) {
  cuda::ConvBackward p{};
  const Source source = read(p, images, residual);
  check_scale(channel_scale, source);
  check_grad(grad, p.images, p.images.rows(), p.images.cols());
  p.outputs = grad.size(1);
  p.grad = gradient_of(grad, images);
  p.channel_scale = channel_scale.data();
  p.type = cuda_type(weight_dtype);
  Tensor weight_grad = empty({p.outputs, source.weight_channels(), npr::kKernel, npr::kKernel}, weight_dtype, images);
  Tensor bias_grad = empty({bias ? p.outputs : 0}, weight_dtype, images);
  p.grad_weight = weight_grad.data_ptr();
  p.grad_bias = bias ? bias_grad.data_ptr() : nullptr;
  run(p, cuda::conv_backward_workspace, cuda::conv_backward, images);
  return {weight_grad, bias_grad};
}

Tensor patch_moments_cuda(const Tensor& images, std::string residual) {
  cuda::Moments p{};
  const Source source = read(p, images, residual);
  const int64_t taps = source.taps();
  Tensor moments = empty({1 + taps + taps * taps}, ScalarType::Long, images);
  p.moments = static_cast<int64_t*>(moments.data_ptr());
  run(p, cuda::moments_workspace, cuda::moments, images);
  return moments;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> stem_cuda(const Tensor& images, const std::optional<Tensor>& moments,
                                                     const Tensor& weight, const std::optional<Tensor>& bn_weight,
                                                     const std::optional<Tensor>& bn_bias,
                                                     const std::optional<Tensor>& mean,
                                                     const std::optional<Tensor>& var, double eps,
                                                     std::vector<double> channel_scale, ScalarType out_dtype, bool save,
                                                     bool fast, std::string residual) {
  cuda::StemForward p{};
  const Source source = read(p, images, residual);
  check_stem(source, weight, bn_weight, bn_bias, moments, mean, var, channel_scale);
  p.outputs = weight.size(0);
  const Parameter weights(weight, images, "weight"), gamma(bn_weight, images, "bn_weight"),
      beta(bn_bias, images, "bn_bias"), given_mean(mean, images, "mean"), given_var(var, images, "var");
  if (moments) check_device(*moments, images, "moments");
  p.moments = moments ? static_cast<const int64_t*>(moments->data_ptr()) : nullptr;
  p.weight = weights.array, p.bn_weight = gamma.array, p.bn_bias = beta.array;
  p.mean = given_mean.array, p.var = given_var.array;
  p.eps = eps;
  p.channel_scale = channel_scale.data();
  p.type = cuda_type(out_dtype);
  p.fast = fast;
  StemResults results(images, p.images, p.outputs, out_dtype, save);
  p.out = results.out.data_ptr();
  p.code = save ? static_cast<uint8_t*>(results.code.data_ptr()) : nullptr;
  p.used_mean = static_cast<double*>(results.mean.data_ptr());
  p.used_var = static_cast<double*>(results.var.data_ptr());
  run(p, cuda::stem_forward_workspace, cuda::stem_forward, images);
  return {results.out, results.code, results.mean, results.var};
}

std::tuple<Tensor, Tensor, Tensor> stem_backward_cuda(const Tensor& grad, const Tensor& images, const Tensor& code,
                                                      const std::optional<Tensor>& moments, const Tensor& weight,
                                                      const std::optional<Tensor>& bn_weight, const Tensor& mean,
                                                      const Tensor& var, double eps, std::vector<double> channel_scale,
                                                      std::string residual) {
  cuda::StemBackward p{};
  const Source source = read(p, images, residual);
  check_stem(source, weight, bn_weight, std::nullopt, moments, mean, var, channel_scale);
  check_pooled(grad, code, p.images, weight.size(0));
  p.outputs = weight.size(0);
  p.grad = gradient_of(grad, images);
  for (const Tensor* tensor : {&code, &mean, &var}) check_device(*tensor, images, "code, mean and var");
  if (moments) check_device(*moments, images, "moments");
  const Tensor dense_code = torch::stable::contiguous(code, MemoryFormat::ChannelsLast);
  const Tensor used_mean = as_double(mean), used_var = as_double(var);
  const Parameter weights(weight, images, "weight"), gamma(bn_weight, images, "bn_weight");
  p.code = static_cast<const uint8_t*>(dense_code.data_ptr());
  p.moments = moments ? static_cast<const int64_t*>(moments->data_ptr()) : nullptr;
  p.weight = weights.array, p.bn_weight = gamma.array;
  p.mean = doubles(used_mean), p.var = doubles(used_var);
  p.eps = eps;
  p.channel_scale = channel_scale.data();
  const ScalarType dtype = weight.scalar_type();
  p.type = cuda_type(dtype);
  Tensor weight_grad = empty({p.outputs, source.weight_channels(), npr::kKernel, npr::kKernel}, dtype, images);
  Tensor gamma_grad = empty({p.outputs}, dtype, images), beta_grad = empty({p.outputs}, dtype, images);
  p.grad_weight = weight_grad.data_ptr();
  p.grad_bn_weight = gamma_grad.data_ptr();
  p.grad_bn_bias = beta_grad.data_ptr();
  run(p, cuda::stem_backward_workspace, cuda::stem_backward, images);
  return {weight_grad, gamma_grad, beta_grad};
}

}  // namespace

#endif  // NPR_WITH_CUDA

// ---- Registration ----------------------------------------------------------------------------------

STABLE_TORCH_LIBRARY(npr, m) {
  m.def(
      "conv2d(Tensor images, Tensor weight, Tensor? bias, float[] channel_scale, ScalarType out_dtype, "
      "bool channels_last, bool fast, *, str residual=\"npr\") -> Tensor");
  m.def(
      "conv2d_backward(Tensor grad, Tensor images, float[] channel_scale, ScalarType weight_dtype, bool bias, *, "
      "str residual=\"npr\") -> (Tensor, Tensor)");
  m.def("patch_moments(Tensor images, *, str residual=\"npr\") -> Tensor");
  m.def(
      "stem(Tensor images, Tensor? moments, Tensor weight, Tensor? bn_weight, Tensor? bn_bias, Tensor? mean, "
      "Tensor? var, float eps, float[] channel_scale, ScalarType out_dtype, bool save, bool fast, *, "
      "str residual=\"npr\") -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "stem_backward(Tensor grad, Tensor images, Tensor code, Tensor? moments, Tensor weight, Tensor? bn_weight, "
      "Tensor mean, Tensor var, float eps, float[] channel_scale, *, str residual=\"npr\") -> (Tensor, Tensor, "
      "Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cpu));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cpu));
  m.impl("patch_moments", TORCH_BOX(&patch_moments_cpu));
  m.impl("stem", TORCH_BOX(&stem_cpu));
  m.impl("stem_backward", TORCH_BOX(&stem_backward_cpu));
}

#if defined(NPR_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(npr, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cuda));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cuda));
  m.impl("patch_moments", TORCH_BOX(&patch_moments_cuda));
  m.impl("stem", TORCH_BOX(&stem_cuda));
  m.impl("stem_backward", TORCH_BOX(&stem_backward_cuda));
}
#endif

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

// Why the CUDA kernels cannot run on the current device; None when they can.
std::optional<std::string> cuda_unavailable_reason() {
#if defined(NPR_WITH_CUDA)
  const npr::cuda::Status status = npr::cuda::probe();
  if (status.ok()) return std::nullopt;
  int runtime, driver;
  npr::cuda::versions(runtime, driver);
  const auto version = [](int number) {
    return number == 0 ? "none" : std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  return std::string(status.error) + " (the extension's CUDA runtime is " + version(runtime) +
         ", the newest that the driver serves is " + version(driver) + ")";
#else
  return "the extension was built without CUDA";
#endif
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

// Of the widest vectors here, whichever are in use. Several threads may do it at once.
int64_t multiply_adds(int64_t steps) {
  const npr::cpu::Supported& found = npr::cpu::supported();
  const py::gil_scoped_release others_may_run;
  return found.tables[found.count - 1]->multiply_adds(steps);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the build of npr_kernels; importing it registers torch.ops.npr.";
  m.def("build_info", &build_info, "Compiler, torch and CUDA versions, and GPU targets that it was built with.");
  m.def("cuda_unavailable_reason", &cuda_unavailable_reason,
        "Why the CUDA kernels cannot run on the current device; None when one of them could be loaded there.");
  m.def("instruction_sets", &instruction_sets, "CPU instruction sets that run here, from the plainest to the best.");
  m.def("instruction_set", [] { return npr::cpu::kernels().name; }, "The CPU instruction set in use.");
  m.def("select_instruction_set", &select_instruction_set, "Uses another CPU instruction set; for tests.");
  m.attr("CACHE_SHARE") = npr::cpu::kCacheShare;  // larger results of npr.conv2d are written past the caches
  m.def("multiply_adds", &multiply_adds, py::arg("steps"),
        "Does float32 multiply-adds as fast as the processor can; returns their number.");
}
