// What a residual block in training is made of beside its maps: weights in panels, and batch norms in float64.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <vector>

#include "cpu/kernels.h"
#include "maps.h"
#include "npr.h"

namespace npr {
namespace {

using cpu::TrainedConv;

constexpr int64_t kPanel = TrainedConv::kPanel;
constexpr int kPoints = cpu::Bottleneck::kPoints;

// The sum over units, in their order, of partial[units][size].
template <class T>
std::vector<double> sum_units(const std::vector<T>& partial, int64_t units, int64_t size) {
  std::vector<double> sum(size);
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int64_t i = 0; i < size; ++i) sum[i] += partial[unit * size + i];
  }
  return sum;
}

// ---- Weights as the kernels read them ------------------------------------------------------------------------------

// A row of a panel: the same value of kPanel outputs.
struct Row {
  double at[kPanel];
};

// G v of F(4x4, 3x3), see csrc/cpu/winograd.h, for three rows `step` apart into six.
void winograd_points(const Row* v, int step, Row* to, int to_step) {
  for (int64_t o = 0; o < kPanel; ++o) {
    const double a = v[0].at[o], b = v[step].at[o], c = v[2 * step].at[o];
    const double sum = (a + c) * (1.0 / 6), middle = b * (1.0 / 6), far = (a + 4 * c) * (1.0 / 24);
    to[0].at[o] = a / 4;
    to[to_step].at[o] = -sum - middle;
    to[2 * to_step].at[o] = middle - sum;
    to[3 * to_step].at[o] = far + b / 12;
    to[4 * to_step].at[o] = far - b / 12;
    to[5 * to_step].at[o] = c;
  }
}

// Panels [to / kPanel][depth][from][kPanel] of weight [outputs][inputs][taps], from its inputs to its outputs or, with
// `back`, from its outputs to its inputs. The depth is its taps or, by Winograd, 36 points; then those of the way back
// are of the kernel turned round.
std::vector<float> panels(const Tensor& weight, const TrainedConv& p, bool back) {
  const float* from = floats(weight);
  const int64_t taps = p.taps(), depth = p.winograd() ? kPoints : taps;
  const int64_t ins = back ? p.outputs : p.inputs, outs = back ? p.inputs : p.outputs;
  const int64_t in_step = (back ? p.inputs : 1) * taps, out_step = (back ? 1 : p.inputs) * taps;
  std::vector<float> packed(outs * depth * ins);
  torch::stable::parallel_for(0, outs / kPanel * ins, kPanel, [&](int64_t first, int64_t last) {
    Row kernel[npr::kPositions], half[18], points[kPoints];
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t panel = unit / ins, in = unit % ins;
      const float* g = from + in * in_step + panel * kPanel * out_step;
      for (int64_t o = 0; o < kPanel; ++o, g += out_step) {
        for (int64_t t = 0; t < taps; ++t) kernel[p.winograd() && back ? taps - 1 - t : t].at[o] = g[t];
      }
      if (p.winograd()) {  // G g, then its product with G^T
        for (int j = 0; j < 3; ++j) winograd_points(kernel + j, 3, half + j, 3);
        for (int i = 0; i < 6; ++i) winograd_points(half + 3 * i, 1, points + 6 * i, 1);
      }
      float* to = packed.data() + (panel * depth * ins + in) * kPanel;
      for (int64_t i = 0; i < depth; ++i, to += ins * kPanel) {
        const Row& row = p.winograd() ? points[i] : kernel[i];
        for (int64_t o = 0; o < kPanel; ++o) to[o] = float(row.at[o]);
      }
    }
  });
  return packed;
}

// ---- Batch norms ---------------------------------------------------------------------------------------------------

// A batch norm of some channels of gamma, beta, mean and var: what it does to y, and what becomes of its gradient.
struct Norm {
  std::vector<double> mean, var;
  std::vector<float> scale, shift;          // z = scale * y + shift
  std::vector<float> slope, slant, offset;  // dy = slope * dz + slant * y + offset
  std::vector<double> gamma_grad, beta_grad;

  // With the statistics of so many values of y a channel, from their sums [2][channels].
  void measure(const std::vector<double>& sums, double count) {
    const size_t channels = sums.size() / 2;
    mean.resize(channels), var.resize(channels);
    for (size_t c = 0; c < channels; ++c) {
      mean[c] = sums[c] / count;
      const double square = sums[channels + c] / count - mean[c] * mean[c];
      var[c] = square < 0 ? 0 : square;  // not the larger of both, which could hide a NaN
    }
  }

  void apply(const float* gamma, const float* beta, double eps) {
    const size_t channels = mean.size();
    scale.resize(channels), shift.resize(channels);
    for (size_t c = 0; c < channels; ++c) {
      const double factor = gamma[c] / std::sqrt(var[c] + eps);
      scale[c] = float(factor), shift[c] = float(beta[c] - factor * mean[c]);
    }
  }

  // From the sums over so many values of dz and of dz * y.
  void differentiate(const double* dz, const double* dz_y, double count, const float* gamma, double eps) {
    const size_t channels = mean.size();
    slope.resize(channels), slant.resize(channels), offset.resize(channels);
    beta_grad.assign(dz, dz + channels), gamma_grad.resize(channels);
    for (size_t c = 0; c < channels; ++c) {
      const double inverse = 1 / std::sqrt(var[c] + eps);
      gamma_grad[c] = inverse * (dz_y[c] - mean[c] * dz[c]);
      const double gain = gamma[c] * inverse, turn = -gain * inverse * gamma_grad[c] / count;
      slope[c] = float(gain), slant[c] = float(turn), offset[c] = float(-gain * dz[c] / count - turn * mean[c]);
    }
  }
};

}  // namespace
}  // namespace npr
