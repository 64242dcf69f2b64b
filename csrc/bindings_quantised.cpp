// The bridge to PyTorch for the body on 8-bit maps, on torch's stable ABI.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>

#include "cpu/kernels.h"
#include "maps.h"
#include "npr.h"

namespace {

using npr::channels_last;
using npr::contiguous;
using npr::floats;
using npr::ScalarType;
using npr::Tensor;
using npr::cpu::Quantise;
using npr::cpu::QuantisedBottleneck;
using npr::cpu::QuantisedConv;

constexpr int64_t kPanel = QuantisedBottleneck::kPanel, kQuad = QuantisedBottleneck::kQuad;

const float* outputs_of(const Tensor& values, int64_t outputs, const char* name, const char* what) {
  STD_TORCH_CHECK(contiguous(values, ScalarType::Float) && values.dim() == 1 && values.size(0) == outputs, "npr: the ",
                  what, " of ", name, " must be a contiguous float32 vector, one value an output");
  return floats(values);
}

// Whether no four weights that are added in 16 bits exceed kLargestSum: those of two quads, a half of each.
bool sums_fit(const int8_t* quad, const int8_t* next) {
  int16_t largest = 0;  // which vectors find, as they find the largest weight
  for (int64_t i = 0; i < kPanel * kQuad; i += 2) {
    int16_t above = 0, below = 0;
    for (const int8_t* pair : {quad + i, next + i}) {
      for (int j = 0; j < 2; ++j) {
        above += pair[j] > 0 ? pair[j] : 0;
        below -= pair[j] < 0 ? pair[j] : 0;
      }
    }
    largest = std::max({largest, above, below});
  }
  return largest <= QuantisedBottleneck::kLargestSum;
}

// Panels [outputs / kPanel, taps * channels / kQuad, kPanel, kQuad].
const int8_t* panels_of(const Tensor& panels, int64_t channels, int64_t taps, int64_t outputs, const char* name) {
  const int64_t quads = channels / kQuad;
  STD_TORCH_CHECK(contiguous(panels, ScalarType::Char) && panels.dim() == 4 && panels.size(0) * kPanel == outputs &&
                      channels % kQuad == 0 && panels.size(1) == taps * quads && panels.size(2) == kPanel &&
                      panels.size(3) == kQuad,
                  "npr: ", name, " must be contiguous int8 panels that fit the other weights");
  const auto* weights = static_cast<const int8_t*>(panels.data_ptr());
  constexpr int kLargest = QuantisedBottleneck::kLargestWeight;
  uint8_t largest = 0;  // of weights + kLargest, without sign, which vectors find: less than 2 MB in a whole network
  for (int64_t i = 0, count = panels.numel(); i < count; ++i) {
    const uint8_t above = uint8_t(weights[i] + kLargest);
    largest = above > largest ? above : largest;
  }
  STD_TORCH_CHECK(largest <= 2 * kLargest, "npr: weights of ", name, " must be -", kLargest, " to ", kLargest);
  bool fit = true;
  for (int64_t tap = 0, count = panels.size(0) * taps; tap < count; ++tap) {
    const int8_t* quad = weights + tap * quads * kPanel * kQuad;
    for (int64_t k = 0; k + 2 <= quads; k += 2, quad += 2 * kPanel * kQuad) {
      fit = sums_fit(quad, quad + kPanel * kQuad) && fit;
    }
  }
  STD_TORCH_CHECK(fit, "npr: among weights of ", name, " for channels 0, 1, 4, 5 or 2, 3, 6, 7 of eight, those of one ",
                  "sign must not add up to more than ", QuantisedBottleneck::kLargestSum);
  return weights;
}

QuantisedConv conv_of(const Tensor& panels, const Tensor& gain, const Tensor& bias, int64_t channels, int64_t taps,
                      int64_t outputs, const char* name) {
  return {panels_of(panels, channels, taps, outputs, name), outputs_of(gain, outputs, name, "gain"),
          outputs_of(bias, outputs, name, "bias")};
}

bool overlap(const Tensor& a, int64_t a_bytes, const Tensor& b, int64_t b_bytes) {
  const char *first = static_cast<const char*>(a.data_ptr()), *second = static_cast<const char*>(b.data_ptr());
  return first < second + b_bytes && second < first + a_bytes;
}

void quantised_bottleneck_cpu(const Tensor& x, const Tensor& reduce, const Tensor& reduce_gain,
                              const Tensor& reduce_bias, const Tensor& spatial, const Tensor& spatial_gain,
                              const Tensor& spatial_bias, const Tensor& expand, const Tensor& expand_gain,
                              const Tensor& expand_bias, const std::optional<Tensor>& project,
                              const Tensor& shortcut_gain, int64_t stride, Tensor& out) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Byte, "npr: x must be uint8 [N, C, H, W]");
  STD_TORCH_CHECK(x.size(1) >= 1 && x.size(2) >= 1 && x.size(3) >= 1, "npr: x must have channels, rows and columns");
  STD_TORCH_CHECK(channels_last(x), "npr: x must be contiguous in channels_last");
  STD_TORCH_CHECK(stride == 1 || stride == 2, "npr: stride must be 1 or 2, got ", stride);
  QuantisedBottleneck p{};
  p.batch = x.size(0), p.inputs = x.size(1), p.rows = x.size(2), p.cols = x.size(3);
  p.stride = stride;
  p.width = reduce_bias.numel(), p.outputs = expand_bias.numel();
  STD_TORCH_CHECK(p.width >= 1 && p.outputs >= 1, "npr: a block must have outputs");
  STD_TORCH_CHECK(p.inputs <= p.kMaxDepth && npr::kPositions * p.width <= p.kMaxDepth, "npr: sums over more than ",
                  p.kMaxDepth, " products may not fit 32 bits");
  p.x = static_cast<const uint8_t*>(x.data_ptr());
  p.reduce = conv_of(reduce, reduce_gain, reduce_bias, p.inputs, 1, p.width, "reduce");
  p.spatial = conv_of(spatial, spatial_gain, spatial_bias, p.width, npr::kPositions, p.width, "spatial");
  p.expand = conv_of(expand, expand_gain, expand_bias, p.width, 1, p.outputs, "expand");
  p.shortcut.gain = outputs_of(shortcut_gain, p.outputs, "the shortcut", "gain");
  if (project) {
    p.shortcut.weight = panels_of(*project, p.inputs, 1, p.outputs, "project");
  } else {
    STD_TORCH_CHECK(stride == 1 && p.inputs == p.outputs, "npr: a block that changes shape must have project");
  }
  p.as_float = out.scalar_type() == ScalarType::Float;
  bool fits = out.dim() == 4 && out.is_cpu() && (p.as_float || out.scalar_type() == ScalarType::Byte);
  const int64_t shape[4] = {p.batch, p.outputs, p.out_rows(), p.out_cols()};
  for (int i = 0; fits && i < 4; ++i) fits = out.size(i) == shape[i];
  STD_TORCH_CHECK(fits && channels_last(out),
                  "npr: out must be uint8 or float32 of the result's shape, in channels_last");
  STD_TORCH_CHECK(!overlap(x, x.numel(), out, out.numel() * (p.as_float ? 4 : 1)), "npr: out must not overlap x");
  p.out = out.data_ptr();
  const auto kernel = npr::cpu::kernels().quantised_bottleneck;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

void quantise_cpu(const Tensor& x, const Tensor& gain, Tensor& out) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::Float && x.is_cpu() && channels_last(x),
                  "npr: x must be float32 [N, C, H, W], contiguous in channels_last");
  bool fits = out.dim() == 4 && out.scalar_type() == ScalarType::Byte && out.is_cpu();
  for (int i = 0; fits && i < 4; ++i) fits = out.size(i) == x.size(i);
  STD_TORCH_CHECK(fits && channels_last(out), "npr: out must be uint8 of x's shape, in channels_last");
  STD_TORCH_CHECK(contiguous(gain, ScalarType::Float) && gain.dim() == 1 && gain.size(0) == x.size(1),
                  "npr: gain must be a contiguous float32 vector, one value a channel");
  const int64_t positions = x.size(0) * x.size(2) * x.size(3);
  const Quantise p = {floats(x), floats(gain), static_cast<uint8_t*>(out.data_ptr()), positions, x.size(1)};
  const auto kernel = npr::cpu::kernels().quantise;
  torch::stable::parallel_for(0, p.units(), 1, [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(npr, m) {
  m.def(
      "quantised_bottleneck(Tensor x, Tensor reduce, Tensor reduce_gain, Tensor reduce_bias, Tensor spatial, Tensor "
      "spatial_gain, Tensor spatial_bias, Tensor expand, Tensor expand_gain, Tensor expand_bias, Tensor? project, "
      "Tensor shortcut_gain, int stride, Tensor(a!) out) -> ()");
  m.def("quantise(Tensor x, Tensor gain, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(npr, CPU, m) {
  m.impl("quantised_bottleneck", TORCH_BOX(&quantised_bottleneck_cpu));
  m.impl("quantise", TORCH_BOX(&quantise_cpu));
}
