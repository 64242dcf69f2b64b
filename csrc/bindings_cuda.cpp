// The ops on images on CUDA devices, on torch's stable ABI; empty in a build without nvcc. The kernels know nothing of
// torch: an op checks its tensors, allocates results and workspace, and hands raw pointers to them.
#if defined(NPR_WITH_CUDA)
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "cuda/kernels.h"
#include "npr.h"

namespace npr {
namespace {

cuda::Type cuda_type(ScalarType type) {
  switch (type_of(type)) {
    case cpu::Type::f32: return cuda::Type::f32;
    case cpu::Type::bf16: return cuda::Type::bf16;
    case cpu::Type::f16: return cuda::Type::f16;
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
  Tensor weight_grad = empty({p.outputs, source.weight_channels(), kKernel, kKernel}, weight_dtype, images);
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
  Tensor weight_grad = empty({p.outputs, source.weight_channels(), kKernel, kKernel}, dtype, images);
  Tensor gamma_grad = empty({p.outputs}, dtype, images), beta_grad = empty({p.outputs}, dtype, images);
  p.grad_weight = weight_grad.data_ptr();
  p.grad_bn_weight = gamma_grad.data_ptr();
  p.grad_bn_bias = beta_grad.data_ptr();
  run(p, cuda::stem_backward_workspace, cuda::stem_backward, images);
  return {weight_grad, gamma_grad, beta_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(npr, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cuda));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cuda));
  m.impl("patch_moments", TORCH_BOX(&patch_moments_cuda));
  m.impl("stem", TORCH_BOX(&stem_cuda));
  m.impl("stem_backward", TORCH_BOX(&stem_backward_cuda));
}

}  // namespace npr
#endif
