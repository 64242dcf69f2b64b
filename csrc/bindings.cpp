// The ops of namespace `npr` on images, by their schemas, and those by which a backend is chosen; bindings_cpu.cpp and
// bindings_cuda.cpp register the kernels of the former, the other files of this name have ops and schemas of their own.
//
// Together they are the library that torch.ops.load_library loads: on torch's stable ABI, and without Python, so that
// one build serves every torch and every Python.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#if defined(NPR_WITH_CUDA)
#include "cuda/kernels.h"
#endif

namespace {

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

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (int i = 0; i < npr::cpu::supported().count; ++i) names.emplace_back(npr::cpu::supported().tables[i]->name);
  return names;
}

std::string instruction_set() { return npr::cpu::kernels().name; }

void select_instruction_set(std::string name) {
  if (npr::cpu::select(name.c_str())) return;
  std::string known;
  for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
  STD_TORCH_CHECK(false, "npr: instruction set must be one of ", known, "; got '", name, "'");
}

// What the CUDA kernels were compiled for, such as sm_90, machine code, and compute_90, PTX; none in a build without.
std::vector<std::string> cuda_targets() { return split(NPR_CUDA_TARGETS); }

// Why the CUDA kernels cannot run on the current device; none when one of them could be loaded there.
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

}  // namespace

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
  m.def("instruction_sets() -> str[]");  // the CPU's that run here, from the plainest to the best
  m.def("instruction_set() -> str");     // the one in use
  m.def("select_instruction_set(str name) -> ()");
  m.def("cuda_targets() -> str[]");
  m.def("cuda_unavailable_reason() -> str?");
}

// Without tensors there is no device to choose a kernel by.
STABLE_TORCH_LIBRARY_IMPL(npr, CompositeExplicitAutograd, m) {
  m.impl("instruction_sets", TORCH_BOX(&instruction_sets));
  m.impl("instruction_set", TORCH_BOX(&instruction_set));
  m.impl("select_instruction_set", TORCH_BOX(&select_instruction_set));
  m.impl("cuda_targets", TORCH_BOX(&cuda_targets));
  m.impl("cuda_unavailable_reason", TORCH_BOX(&cuda_unavailable_reason));
}
