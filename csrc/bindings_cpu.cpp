// The ops on images on the CPU, on torch's stable ABI. An op checks its tensors, allocates results, folds the weights
// and hands raw pointers to the kernels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "npr.h"
#include "stem_algebra.h"

namespace npr {
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
    for_each_weight_channel(source, [&](int64_t q, Map map) {
      const bool spoilt = dead_centre(map) && !std::isfinite(from[kPositions / 2]);
      for (int t = 0; t < taps_of(map); ++t) folded.push_back(from[tap_position(map, t)] * (spoilt ? NAN : scale[q]));
      from += kPositions;
    });
  }
  return folded;
}

// The layout of the kernels: [taps][padded(outputs)] of T.
template <class T>
std::vector<T> pack(const std::vector<double>& folded, int64_t outputs) {
  const int64_t taps = int64_t(folded.size()) / outputs, stride = cpu::padded(outputs);
  std::vector<T> packed(taps * stride);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t k = 0; k < taps; ++k) packed[k * stride + o] = T(folded[o * taps + k]);
  }
  return packed;
}
template <class T>
std::vector<T> pack(const double* vector, int64_t outputs) {
  std::vector<T> packed(cpu::padded(outputs));
  std::copy_n(vector, outputs, packed.begin());
  return packed;
}

// Calls f with a zero of the type that the arithmetic of results of `type` uses.
template <class F>
void with_compute_type(cpu::Type type, F&& f) {
  cpu::compute_type(type) == cpu::Type::f64 ? f(double{}) : f(float{});
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
  auto p = problem<cpu::ConvForward>(images, residual);
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
  cpu::expect_writes(p.out, bytes);
  p.past_caches = bytes > cpu::kCacheShare;
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const auto packed = pack<T>(fold(weight, p, channel_scale), p.outputs);
    const auto shift = bias ? pack<T>(doubles(as_double(*bias)), p.outputs) : std::vector<T>(cpu::padded(p.outputs));
    p.weight = packed.data();
    p.bias = shift.data();
    const auto kernel = cpu::kernels().conv_forward;
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
  Tensor gradient = empty({outputs, source.weight_channels(), kKernel, kKernel}, ScalarType::Double, like);
  double* to = static_cast<double*>(gradient.data_ptr());
  for (int64_t o = 0; o < outputs; ++o) {
    const double* from = taps + o * stride;
    for_each_weight_channel(source, [&](int64_t q, Map map) {
      to[kPositions / 2] = 0;
      for (int t = 0; t < taps_of(map); ++t) to[tap_position(map, t)] = *from++ * scale[q];
      to += kPositions;
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
  auto p = problem<cpu::ConvBackward>(images, residual);
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
  const auto kernel = cpu::kernels().conv_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  std::vector<double> sums(size);
  sum_units(p.partial, p.units(), size, sums.data());
  return {unfold_gradient(sums.data(), columns, p.outputs, p, channel_scale, images, weight_dtype),
          vector_of(sums.data() + columns - 1, bias ? p.outputs : 0, columns, images, weight_dtype)};
}

Tensor patch_moments_cpu(const Tensor& images, std::string residual) {
  auto p = problem<cpu::PatchMoments>(images, residual);
  const Tensor partial = empty({p.units(), p.size()}, ScalarType::Long, images);
  p.partial = static_cast<int64_t*>(partial.data_ptr());
  const auto kernel = cpu::kernels().patch_moments;
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
  auto p = problem<cpu::StemForward>(images, residual);
  check_stem(p, weight, bn_weight, bn_bias, moments, mean, var, channel_scale);
  const int64_t outputs = p.outputs = weight.size(0), taps = p.taps();
  const StemResults results(images, p.images, outputs, out_dtype, save);
  const std::vector<double> folded = fold(weight, p, channel_scale);
  double* m = static_cast<double*>(results.mean.data_ptr());
  double* v = static_cast<double*>(results.var.data_ptr());
  if (moments) {
    batch_statistics({static_cast<const int64_t*>(moments->data_ptr()), taps}, folded.data(), outputs, m, v);
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
  cpu::expect_writes(p.out, results.out.numel() * size_of(p.type));
  p.code = save ? static_cast<uint8_t*>(results.code.data_ptr()) : nullptr;
  with_compute_type(p.type, [&](auto zero) {
    using T = decltype(zero);
    const bool literal = !stays_finite<T>(scaled, shift, p.residual.largest);
    const auto packed_weight = pack<T>(literal ? folded : scaled, outputs);
    const auto packed_scale = pack<T>(scale.data(), outputs), packed_shift = pack<T>(shift.data(), outputs);
    p.weight = packed_weight.data();
    p.scale = literal ? packed_scale.data() : nullptr;
    p.shift = packed_shift.data();
    const auto kernel = cpu::kernels().stem_forward;
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
  auto p = problem<cpu::StemBackward>(images, residual);
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
  const auto kernel = cpu::kernels().stem_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
  std::vector<double> sums(outputs * columns);
  sum_units(p.partial, p.units(), outputs * columns, sums.data());

  const std::vector<double> folded = fold(weight, p, channel_scale);
  const Tensor gamma = bn_weight ? as_double(*bn_weight) : Tensor();
  const Tensor used_mean = as_double(mean), used_var = as_double(var);
  std::vector<double> dweight(outputs * taps), dgamma(outputs), dbeta(outputs);
  stem_gradient(
      {outputs, taps, folded.data(), bn_weight ? doubles(gamma) : nullptr, doubles(used_mean), doubles(used_var), eps,
       sums.data(), moments ? static_cast<const int64_t*>(moments->data_ptr()) : nullptr},
      dweight.data(), dgamma.data(), dbeta.data());
  const ScalarType dtype = weight.scalar_type();
  return {unfold_gradient(dweight.data(), taps, outputs, p, channel_scale, images, dtype),
          vector_of(dgamma.data(), outputs, 1, images, dtype), vector_of(dbeta.data(), outputs, 1, images, dtype)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cpu));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cpu));
  m.impl("patch_moments", TORCH_BOX(&patch_moments_cpu));
  m.impl("stem", TORCH_BOX(&stem_cpu));
  m.impl("stem_backward", TORCH_BOX(&stem_backward_cpu));
}

}  // namespace npr
