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
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "npr.h"

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

int64_t grain_of_rows(const Images& images, int64_t outputs) {
  return std::max<int64_t>(1, kGrain / (images.cols() * images.taps() * outputs));
}

// The weights [taps][padded(outputs)] times the scale of their channel, zeros elsewhere.
template <class T>
void fold(const double* weight, const std::vector<double>& scale, int64_t outputs, T* folded) {
  const int64_t channels = int64_t(scale.size()), stride = npr::cpu::padded(outputs);
  constexpr int64_t kPositions = npr::kKernel * npr::kKernel;
  std::fill_n(folded, channels * npr::kTaps * stride, T(0));
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int t = 0; t < npr::kTaps; ++t) {
        const double value = weight[(o * channels + c) * kPositions + npr::tap_position(t)];
        folded[(c * npr::kTaps + t) * stride + o] = T(value * scale[c]);
      }
    }
  }
}

template <class T>
void run_conv_forward(npr::cpu::ConvForward& p, const Tensor& weight, const std::optional<Tensor>& bias,
                      const std::vector<double>& scale) {
  std::vector<T> folded(p.images.taps() * npr::cpu::padded(p.outputs)), shift(npr::cpu::padded(p.outputs));
  fold(doubles(as_double(weight)), scale, p.outputs, folded.data());
  if (bias) std::copy_n(doubles(as_double(*bias)), p.outputs, shift.begin());
  p.weight = folded.data();
  p.bias = shift.data();
  const auto kernel = npr::cpu::kernels().conv_forward;
  torch::stable::parallel_for(0, p.units(), grain_of_rows(p.images, p.outputs),
                              [&](int64_t first, int64_t last) { kernel(p, first, last); });
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
  if (npr::cpu::compute_type(p.type) == npr::cpu::Type::f64) {
    run_conv_forward<double>(p, weight, bias, channel_scale);
  } else {
    run_conv_forward<float>(p, weight, bias, channel_scale);
  }
  return out;
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
  p.grad = grad.data_ptr();
  p.stride_n = grad.stride(0), p.stride_o = grad.stride(1), p.stride_h = grad.stride(2), p.stride_w = grad.stride(3);
  p.type = type_of(grad.scalar_type());

  const int64_t columns = p.images.taps() + 1;
  Tensor partial = empty({p.units(), p.outputs, columns}, ScalarType::Double, images);
  p.partial = static_cast<double*>(partial.data_ptr());
  const auto kernel = npr::cpu::kernels().conv_backward;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });

  // The partial sums in the order of their units, whatever thread made them.
  Tensor weight_grad = empty({p.outputs, p.images.channels, npr::kKernel, npr::kKernel}, ScalarType::Double, images);
  Tensor bias_grad = empty({bias ? p.outputs : 0}, ScalarType::Double, images);
  double* dw = static_cast<double*>(weight_grad.data_ptr());
  double* db = bias ? static_cast<double*>(bias_grad.data_ptr()) : nullptr;
  torch::stable::parallel_for(0, p.outputs, 16, [&](int64_t first, int64_t last) {
    std::vector<double> sum(columns);
    for (int64_t o = first; o < last; ++o) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t unit = 0; unit < p.units(); ++unit) {
        const double* part = p.partial + (unit * p.outputs + o) * columns;
        for (int64_t k = 0; k < columns; ++k) sum[k] += part[k];
      }
      for (int64_t c = 0; c < p.images.channels; ++c) {
        double* to = dw + (o * p.images.channels + c) * npr::kKernel * npr::kKernel;
        to[npr::kKernel * npr::kKernel / 2] = 0;
        for (int t = 0; t < npr::kTaps; ++t) {
          to[npr::tap_position(t)] = sum[c * npr::kTaps + t] * channel_scale[c];
        }
      }
      if (bias) db[o] = sum[columns - 1];
    }
  });
  return {to_type(weight_grad, weight_dtype), to_type(bias_grad, weight_dtype)};
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
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d_cpu));
  m.impl("conv2d_backward", TORCH_BOX(&conv2d_backward_cpu));
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
