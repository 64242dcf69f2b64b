// The bridge to PyTorch for the network's body: ops of namespace `npr` that know no images, on torch's stable ABI.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "maps.h"
#include "npr.h"

namespace {

using npr::channels_last;
using npr::floats;
using npr::ScalarType;
using npr::Tensor;
using npr::cpu::Bottleneck;
using torch::headeronly::MemoryFormat;

bool contiguous_floats(const Tensor& tensor) { return npr::contiguous(tensor, ScalarType::Float); }

// Panels [outputs / kPanel, *depth, kPanel] and their bias [outputs].
void check_panels(const Tensor& panels, const Tensor& bias, const std::vector<int64_t>& depth, const char* name) {
  bool fits = contiguous_floats(panels) && panels.dim() == int64_t(depth.size()) + 2 && panels.size(0) >= 1 &&
              panels.size(panels.dim() - 1) == Bottleneck::kPanel;
  for (size_t i = 0; fits && i < depth.size(); ++i) fits = panels.size(int64_t(i) + 1) == depth[i];
  STD_TORCH_CHECK(fits, "npr: ", name, " must be contiguous float32 panels that fit the other weights");
  STD_TORCH_CHECK(contiguous_floats(bias) && bias.dim() == 1 && bias.size(0) == panels.size(0) * Bottleneck::kPanel,
                  "npr: the bias of ", name, " must be a contiguous float32 vector, one value an output");
}

// The problem without its result.
Bottleneck problem(const Tensor& x, const Tensor& reduce, const Tensor& reduce_bias, const Tensor& spatial,
                   const Tensor& spatial_bias, const Tensor& expand, const Tensor& expand_bias,
                   const std::optional<Tensor>& project, int64_t stride) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float, "npr: x must be float32 [N, C, H, W]");
  STD_TORCH_CHECK(x.size(1) >= 1 && x.size(2) >= 1 && x.size(3) >= 1, "npr: x must have channels, rows and columns");
  STD_TORCH_CHECK(channels_last(x), "npr: x must be contiguous in channels_last");
  STD_TORCH_CHECK(stride == 1 || stride == 2, "npr: stride must be 1 or 2, got ", stride);
  Bottleneck p{};
  p.batch = x.size(0), p.inputs = x.size(1), p.rows = x.size(2), p.cols = x.size(3);
  p.stride = stride;
  p.width = reduce_bias.numel(), p.outputs = expand_bias.numel();
  check_panels(reduce, reduce_bias, {p.inputs}, "reduce");
  STD_TORCH_CHECK(spatial.dim() == 4, "npr: spatial must be panels of 9 taps or 36 points");
  p.winograd = spatial.size(1) == Bottleneck::kPoints;
  STD_TORCH_CHECK(!p.winograd || stride == 1, "npr: spatial must be panels of 9 taps for stride 2");
  check_panels(spatial, spatial_bias, {p.winograd ? Bottleneck::kPoints : npr::kPositions, p.width}, "spatial");
  STD_TORCH_CHECK(spatial.size(0) == reduce.size(0), "npr: spatial must have as many outputs as reduce");
  check_panels(expand, expand_bias, {p.width}, "expand");
  if (project) {
    check_panels(*project, expand_bias, {p.inputs}, "project");
  } else {
    STD_TORCH_CHECK(stride == 1 && p.inputs == p.outputs, "npr: a block that changes shape must have project");
  }
  p.x = floats(x);
  p.reduce = floats(reduce), p.reduce_bias = floats(reduce_bias);
  p.spatial = floats(spatial), p.spatial_bias = floats(spatial_bias);
  p.expand = floats(expand), p.expand_bias = floats(expand_bias);
  p.project = project ? floats(*project) : nullptr;
  return p;
}

void run(Bottleneck& p, Tensor& out) {
  p.out = static_cast<float*>(out.data_ptr());
  const auto kernel = npr::cpu::kernels().bottleneck;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

Tensor bottleneck_cpu(const Tensor& x, const Tensor& reduce, const Tensor& reduce_bias, const Tensor& spatial,
                      const Tensor& spatial_bias, const Tensor& expand, const Tensor& expand_bias,
                      const std::optional<Tensor>& project, int64_t stride) {
  Bottleneck p = problem(x, reduce, reduce_bias, spatial, spatial_bias, expand, expand_bias, project, stride);
  Tensor out = torch::stable::empty({p.batch, p.outputs, p.out_rows(), p.out_cols()}, ScalarType::Float, std::nullopt,
                                    x.device(), std::nullopt, MemoryFormat::ChannelsLast);
  npr::cpu::expect_writes(out.data_ptr(), out.numel() * sizeof(float));
  run(p, out);
  return out;
}

void bottleneck_out_cpu(const Tensor& x, const Tensor& reduce, const Tensor& reduce_bias, const Tensor& spatial,
                        const Tensor& spatial_bias, const Tensor& expand, const Tensor& expand_bias,
                        const std::optional<Tensor>& project, int64_t stride, Tensor& out) {
  Bottleneck p = problem(x, reduce, reduce_bias, spatial, spatial_bias, expand, expand_bias, project, stride);
  const int64_t shape[4] = {p.batch, p.outputs, p.out_rows(), p.out_cols()};
  bool fits = out.dim() == 4 && out.scalar_type() == ScalarType::Float && out.is_cpu();
  for (int i = 0; fits && i < 4; ++i) fits = out.size(i) == shape[i];
  STD_TORCH_CHECK(fits && channels_last(out), "npr: out must be float32 of the result's shape, in channels_last");
  const float* begin = floats(out);
  STD_TORCH_CHECK(begin + out.numel() <= p.x || p.x + x.numel() <= begin, "npr: out must not overlap x");
  run(p, out);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(npr, m) {
  m.def(
      "bottleneck(Tensor x, Tensor reduce, Tensor reduce_bias, Tensor spatial, Tensor spatial_bias, Tensor expand, "
      "Tensor expand_bias, Tensor? project, int stride) -> Tensor");
  m.def(
      "bottleneck_out(Tensor x, Tensor reduce, Tensor reduce_bias, Tensor spatial, Tensor spatial_bias, Tensor expand, "
      "Tensor expand_bias, Tensor? project, int stride, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("bottleneck", TORCH_BOX(&bottleneck_cpu));
  m.impl("bottleneck_out", TORCH_BOX(&bottleneck_out_cpu));
}
