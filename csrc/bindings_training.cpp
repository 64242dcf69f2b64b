// The bridge to PyTorch for a residual block in training, on torch's stable ABI: one op forward, one backward.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "maps.h"
#include "training_block.h"

namespace {

using npr::channels_last;
using npr::floats;
using npr::kPanel;
using npr::Norm;
using npr::panels;
using npr::ScalarType;
using npr::sum_units;
using npr::Tensor;
using npr::cpu::TrainedConv;
using torch::headeronly::MemoryFormat;

float* floats_of(Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }
const uint32_t* gates_of(const Tensor& gate) { return static_cast<const uint32_t*>(gate.data_ptr()); }

Tensor empty_map(const Tensor& like, int64_t channels, int64_t rows, int64_t cols) {
  Tensor map = torch::stable::empty({like.size(0), channels, rows, cols}, ScalarType::Float, std::nullopt,
                                    like.device(), std::nullopt, MemoryFormat::ChannelsLast);
  npr::cpu::expect_writes(map.data_ptr(), map.numel() * sizeof(float));
  return map;
}

Tensor like(const Tensor& map) { return empty_map(map, map.size(1), map.size(2), map.size(3)); }

Tensor vector_of(const std::vector<double>& values, const Tensor& like, ScalarType type) {
  Tensor vector = torch::stable::empty({int64_t(values.size())}, type, std::nullopt, like.device());
  if (type == ScalarType::Double) {
    std::copy(values.begin(), values.end(), static_cast<double*>(vector.data_ptr()));
  } else {
    std::copy(values.begin(), values.end(), static_cast<float*>(vector.data_ptr()));
  }
  return vector;
}

template <class Problem>
void run(const Problem& p, void (*kernel)(const Problem&, int64_t, int64_t)) {
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

// ---- A block -------------------------------------------------------------------------------------------------------

enum Part { kReduce, kSpatial, kExpand, kProject };

struct Block {
  const Tensor* weight[4];
  int64_t channels[4];  // outputs
  int64_t first[4];     // channel in gamma and beta
  int parts = 3;
  TrainedConv conv[4];

  bool projects() const { return parts == 4; }
  const TrainedConv& end() const { return conv[kExpand]; }
};

void check_weight(const Tensor& weight, const std::vector<int64_t>& shape, const char* name) {
  bool fits = npr::contiguous(weight, ScalarType::Float) && weight.dim() == 4 && weight.size(0) % kPanel == 0 &&
              weight.size(0) > 0;
  for (int i = 1; fits && i < 4; ++i) fits = weight.size(i) == shape[i - 1];
  STD_TORCH_CHECK(fits, "npr: ", name, " must be a contiguous float32 weight [outputs, ", shape[0], ", ", shape[1],
                  ", ", shape[2], "], outputs a multiple of ", kPanel);
}

void check_vector(const Tensor& vector, int64_t size, ScalarType type, const char* name) {
  STD_TORCH_CHECK(npr::contiguous(vector, type) && vector.dim() == 1 && vector.size(0) == size, "npr: ", name,
                  " must be a contiguous vector of ", size, " values, ",
                  type == ScalarType::Double ? "float64" : "float32");
}

void check_map(const Tensor& map, int64_t channels, int64_t rows, int64_t cols, int64_t batch, const char* name) {
  const bool fits = map.dim() == 4 && map.scalar_type() == ScalarType::Float && map.is_cpu() && map.size(0) == batch &&
                    map.size(1) == channels && map.size(2) == rows && map.size(3) == cols && channels_last(map);
  STD_TORCH_CHECK(fits, "npr: ", name, " must be float32 [", batch, ", ", channels, ", ", rows, ", ", cols,
                  "], contiguous in channels_last");
}

// The block, checked; its convolutions have their shapes and no data.
Block block_of(const Tensor& x, const Tensor& reduce, const Tensor& spatial, const Tensor& expand,
               const std::optional<Tensor>& project, const Tensor& gamma, const Tensor& beta, int64_t stride) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && x.is_cpu(),
                  "npr: x must be float32 [N, C, H, W]");
  STD_TORCH_CHECK(channels_last(x), "npr: x must be contiguous in channels_last");
  STD_TORCH_CHECK(stride == 1 || stride == 2, "npr: stride must be 1 or 2, got ", stride);
  const int64_t inputs = x.size(1), rows = x.size(2), cols = x.size(3);
  STD_TORCH_CHECK(inputs > 0 && inputs % kPanel == 0, "npr: x must have a multiple of ", kPanel, " channels, got ",
                  inputs);
  check_weight(reduce, {inputs, 1, 1}, "reduce");
  const int64_t width = reduce.size(0);
  check_weight(spatial, {width, 3, 3}, "spatial");
  STD_TORCH_CHECK(spatial.size(0) == width, "npr: spatial must have as many outputs as inputs");
  check_weight(expand, {width, 1, 1}, "expand");
  const int64_t outputs = expand.size(0);
  Block block{};
  block.weight[kReduce] = &reduce, block.weight[kSpatial] = &spatial, block.weight[kExpand] = &expand;
  const auto conv = [&](Part part, int64_t ins, int64_t outs, int64_t by, bool strided) {
    TrainedConv& c = block.conv[part];
    const bool after = part == kExpand;
    c.batch = x.size(0), c.rows = after ? (rows + stride - 1) / stride : rows;
    c.cols = after ? (cols + stride - 1) / stride : cols;
    c.inputs = ins, c.outputs = outs, c.stride = by, c.spatial = strided;
    block.channels[part] = outs;
  };
  conv(kReduce, inputs, width, 1, false);
  conv(kSpatial, width, width, stride, true);
  conv(kExpand, width, outputs, 1, false);
  if (project) {
    check_weight(*project, {inputs, 1, 1}, "project");
    STD_TORCH_CHECK(project->size(0) == outputs, "npr: project must have as many outputs as expand");
    block.weight[kProject] = &*project;
    conv(kProject, inputs, outputs, stride, false);
    block.parts = 4;
  } else {
    STD_TORCH_CHECK(stride == 1 && inputs == outputs, "npr: a block that changes shape must have project");
  }
  int64_t total = 0;
  for (int part = 0; part < block.parts; ++part) block.first[part] = total, total += block.channels[part];
  check_vector(gamma, total, ScalarType::Float, "gamma");
  check_vector(beta, total, ScalarType::Float, "beta");
  STD_TORCH_CHECK(block.end().out_positions() >= 2,
                  "npr: a batch norm in training needs more than one value a channel, got x of [", x.size(0), ", ",
                  inputs, ", ", rows, ", ", cols, "]");
  return block;
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Forward trained_bottleneck_cpu(const Tensor& x, const Tensor& reduce, const Tensor& spatial, const Tensor& expand,
                               const std::optional<Tensor>& project, const Tensor& gamma, const Tensor& beta,
                               int64_t stride, double eps) {
  const Block block = block_of(x, reduce, spatial, expand, project, gamma, beta, stride);
  const auto& kernels = npr::cpu::kernels();
  Norm norms[4];
  // A convolution and the statistics of what it gives, `before` the norm of what it reads.
  const auto convolve = [&](Part part, const Tensor& from, const Norm* before) {
    npr::cpu::TrainedConvForward p{};
    static_cast<TrainedConv&>(p) = block.conv[part];
    p.x = floats(from);
    if (before != nullptr) p.scale = before->scale.data(), p.shift = before->shift.data();
    const std::vector<float> weight = panels(*block.weight[part], p, false);
    std::vector<double> sums(p.units() * 2 * p.outputs);
    Tensor y = empty_map(x, p.outputs, p.out_rows(), p.out_cols());
    p.weight = weight.data(), p.y = floats_of(y), p.sums = sums.data();
    run(p, kernels.trained_conv_forward);
    norms[part].measure(sum_units(sums, p.units(), 2 * p.outputs), double(p.out_positions()));
    norms[part].apply(floats(gamma) + block.first[part], floats(beta) + block.first[part], eps);
    return y;
  };
  const Tensor reduced = convolve(kReduce, x, nullptr);
  const Tensor middle = convolve(kSpatial, reduced, &norms[kReduce]);
  const Tensor expanded = convolve(kExpand, middle, &norms[kSpatial]);
  const Tensor projected = block.projects() ? convolve(kProject, x, nullptr)
                                            : torch::stable::empty({0}, ScalarType::Float, std::nullopt, x.device());
  Tensor out = like(expanded);
  Tensor gate = torch::stable::empty({out.size(0), out.size(2), out.size(3), out.size(1) / npr::cpu::BlockEnd::kGates},
                                     ScalarType::Int, std::nullopt, x.device());
  npr::cpu::BlockEnd end{};
  end.positions = block.end().out_positions(), end.channels = block.channels[kExpand];
  end.y = floats(expanded), end.scale = norms[kExpand].scale.data(), end.shift = norms[kExpand].shift.data();
  end.x = floats(x);
  if (block.projects()) {
    end.x = floats(projected);
    end.shortcut_scale = norms[kProject].scale.data(), end.shortcut_shift = norms[kProject].shift.data();
  }
  end.out = floats_of(out), end.gate = static_cast<uint32_t*>(gate.data_ptr());
  end.past_caches = out.numel() * sizeof(float) > npr::cpu::kCacheShare &&
                    reinterpret_cast<uintptr_t>(out.data_ptr()) % npr::cpu::kStreamAlignment == 0;
  run(end, kernels.block_end);
  std::vector<double> mean, var;
  for (int part = 0; part < block.parts; ++part) {
    mean.insert(mean.end(), norms[part].mean.begin(), norms[part].mean.end());
    var.insert(var.end(), norms[part].var.begin(), norms[part].var.end());
  }
  return {out,
          gate,
          reduced,
          middle,
          expanded,
          projected,
          vector_of(mean, x, ScalarType::Double),
          vector_of(var, x, ScalarType::Double)};
}

using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Backward trained_bottleneck_backward_cpu(const Tensor& grad, const Tensor& x, const Tensor& gate, const Tensor& reduced,
                                         const Tensor& middle, const Tensor& expanded, const Tensor& projected,
                                         const Tensor& reduce, const Tensor& spatial, const Tensor& expand,
                                         const std::optional<Tensor>& project, const Tensor& gamma, const Tensor& beta,
                                         const Tensor& mean, const Tensor& var, int64_t stride, double eps) {
  const Block block = block_of(x, reduce, spatial, expand, project, gamma, beta, stride);
  const TrainedConv& end = block.end();
  const int64_t batch = end.batch, outputs = end.outputs;
  const auto result = [&](const Tensor& map, Part part, const char* name) {
    const TrainedConv& c = block.conv[part];
    check_map(map, c.outputs, c.out_rows(), c.out_cols(), batch, name);
  };
  result(grad, kExpand, "grad"), result(expanded, kExpand, "expanded");
  STD_TORCH_CHECK(npr::contiguous(gate, ScalarType::Int) && gate.numel() == grad.numel() / npr::cpu::BlockEnd::kGates,
                  "npr: gate must be int32 and contiguous, a bit for each value of grad");
  result(reduced, kReduce, "reduced"), result(middle, kSpatial, "middle");
  if (block.projects()) result(projected, kProject, "projected");
  check_vector(mean, gamma.size(0), ScalarType::Double, "mean");
  check_vector(var, gamma.size(0), ScalarType::Double, "var");

  const auto& kernels = npr::cpu::kernels();
  Norm norms[4];
  for (int part = 0; part < block.parts; ++part) {
    const auto values = [&](const Tensor& of) {
      const double* from = static_cast<const double*>(of.data_ptr()) + block.first[part];
      return std::vector<double>(from, from + block.channels[part]);
    };
    norms[part].mean = values(mean), norms[part].var = values(var);
    norms[part].apply(floats(gamma) + block.first[part], floats(beta) + block.first[part], eps);
  }
  const auto differentiate = [&](Part part, const double* dz, const double* dz_y) {
    norms[part].differentiate(dz, dz_y, double(block.conv[part].out_positions()), floats(gamma) + block.first[part],
                              eps);
  };
  {
    npr::cpu::BlockEndSums p{};
    p.positions = end.out_positions(), p.channels = outputs;
    p.grad = floats(grad), p.gate = gates_of(gate), p.y = floats(expanded);
    p.shortcut = block.projects() ? floats(projected) : nullptr;
    std::vector<double> partial(p.units() * 3 * outputs);
    p.sums = partial.data();
    run(p, kernels.block_end_sums);
    const std::vector<double> sums = sum_units(partial, p.units(), 3 * outputs);
    differentiate(kExpand, sums.data(), sums.data() + outputs);
    if (block.projects()) differentiate(kProject, sums.data(), sums.data() + 2 * outputs);
  }

  Tensor weight_grads[4];
  // The gradients of a convolution's weight and, into dx, of what it reads: of the norm `before` it, or of x itself.
  const auto convolve = [&](Part part, const Tensor& dz, const Tensor* gate_of_dz, const Tensor& y, const Tensor& from,
                            const Norm* before, Tensor& dx, const Tensor* addend, const Tensor* addend_gate,
                            int64_t addend_stride) {
    npr::cpu::TrainedConvBackward p{};
    static_cast<TrainedConv&>(p) = block.conv[part];
    p.x = floats(from);
    if (before != nullptr) p.scale = before->scale.data(), p.shift = before->shift.data();
    p.grad = floats(dz), p.gate = gate_of_dz == nullptr ? nullptr : gates_of(*gate_of_dz), p.y = floats(y);
    p.slope = norms[part].slope.data(), p.slant = norms[part].slant.data(), p.offset = norms[part].offset.data();
    const std::vector<float> weight = panels(*block.weight[part], p, true);
    const int64_t size = p.taps() * p.outputs * p.inputs;
    Tensor partial = torch::stable::empty({p.units(), size}, ScalarType::Float, std::nullopt, x.device());
    std::vector<double> sums(before == nullptr ? 0 : p.units() * 2 * p.inputs);
    p.weight = weight.data(), p.dx = floats_of(dx), p.weight_grad = floats_of(partial), p.sums = sums.data();
    p.addend = addend == nullptr ? nullptr : floats(*addend);
    p.addend_gate = addend_gate == nullptr ? nullptr : gates_of(*addend_gate);
    p.addend_stride = addend_stride;
    run(p, kernels.trained_conv_backward);
    // [units][taps][pairs] -> [pairs][taps], the pairs being those of an output and an input.
    weight_grads[part] = torch::stable::empty({p.outputs, p.inputs, p.spatial ? 3 : 1, p.spatial ? 3 : 1},
                                              ScalarType::Float, std::nullopt, x.device());
    float* to = floats_of(weight_grads[part]);
    const int64_t pairs = p.outputs * p.inputs, taps = p.taps();
    torch::stable::parallel_for(0, pairs, 4096, [&](int64_t first, int64_t last) {
      std::vector<double> sum(last - first);
      for (int64_t t = 0; t < taps; ++t) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t unit = 0; unit < p.units(); ++unit) {
          const float* part_of = p.weight_grad + unit * size + t * pairs;
          for (int64_t i = first; i < last; ++i) sum[i - first] += part_of[i];
        }
        for (int64_t i = first; i < last; ++i) to[i * taps + t] = float(sum[i - first]);
      }
    });
    return before == nullptr ? std::vector<double>() : sum_units(sums, p.units(), 2 * p.inputs);
  };
  Tensor middle_grad = like(middle), reduced_grad = like(reduced), x_grad = like(x);
  std::vector<double> sums =
      convolve(kExpand, grad, &gate, expanded, middle, &norms[kSpatial], middle_grad, nullptr, nullptr, 1);
  differentiate(kSpatial, sums.data(), sums.data() + block.channels[kSpatial]);
  sums = convolve(kSpatial, middle_grad, nullptr, middle, reduced, &norms[kReduce], reduced_grad, nullptr, nullptr, 1);
  differentiate(kReduce, sums.data(), sums.data() + block.channels[kReduce]);
  if (block.projects()) {
    Tensor shortcut_grad = empty_map(x, x.size(1), end.rows, end.cols);
    convolve(kProject, grad, &gate, projected, x, nullptr, shortcut_grad, nullptr, nullptr, 1);
    convolve(kReduce, reduced_grad, nullptr, reduced, x, nullptr, x_grad, &shortcut_grad, nullptr, stride);
  } else {
    weight_grads[kProject] = torch::stable::empty({0}, ScalarType::Float, std::nullopt, x.device());
    convolve(kReduce, reduced_grad, nullptr, reduced, x, nullptr, x_grad, &grad, &gate, 1);
  }
  std::vector<double> gamma_grad, beta_grad;
  for (int part = 0; part < block.parts; ++part) {
    gamma_grad.insert(gamma_grad.end(), norms[part].gamma_grad.begin(), norms[part].gamma_grad.end());
    beta_grad.insert(beta_grad.end(), norms[part].beta_grad.begin(), norms[part].beta_grad.end());
  }
  return {x_grad,
          weight_grads[kReduce],
          weight_grads[kSpatial],
          weight_grads[kExpand],
          weight_grads[kProject],
          vector_of(gamma_grad, x, ScalarType::Float),
          vector_of(beta_grad, x, ScalarType::Float)};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(npr, m) {
  m.def(
      "trained_bottleneck(Tensor x, Tensor reduce, Tensor spatial, Tensor expand, Tensor? project, Tensor gamma, "
      "Tensor beta, int stride, float eps) -> (Tensor out, Tensor gate, Tensor reduced, Tensor middle, "
      "Tensor expanded, Tensor projected, Tensor mean, Tensor var)");
  m.def(
      "trained_bottleneck_backward(Tensor grad, Tensor x, Tensor gate, Tensor reduced, Tensor middle, Tensor expanded, "
      "Tensor projected, Tensor reduce, Tensor spatial, Tensor expand, Tensor? project, Tensor gamma, Tensor beta, "
      "Tensor mean, Tensor var, int stride, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("trained_bottleneck", TORCH_BOX(&trained_bottleneck_cpu));
  m.impl("trained_bottleneck_backward", TORCH_BOX(&trained_bottleneck_backward_cpu));
}
