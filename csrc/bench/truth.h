// What the operations compute, written down once more: one position after the other, in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "npr.h"

namespace npr::bench {

constexpr int kChannels = 3, kClosed = 9;
constexpr double kEps = 1e-5;

// One tap of a patch: what it reads, by which weight it is multiplied, and what multiplies the integer.
struct PatchTap {
  Tap tap;
  int channel, weight;  // of the image; index among an output's weights
  double scale;
};

// The taps in the order of the kernels: map by map, channel by channel.
inline std::vector<PatchTap> patch_taps(const Residual& residual) {
  constexpr double kStd[kChannels] = {0.229, 0.224, 0.225};
  std::vector<PatchTap> taps;
  for (int m = 0; m < residual.maps; ++m) {
    for (int c = 0; c < kChannels; ++c) {
      const Map map = residual.map[m];
      const double gain = map == Map::haar ? 0.5 : 1;
      for (int t = 0; t < taps_of(map); ++t) {
        const int weight = (m * kChannels + c) * kPositions + tap_position(map, t);
        taps.push_back({tap_source(map, t), c, weight, gain * 2 / 3 / 255 / kStd[c]});
      }
    }
  }
  return taps;
}

// A batch of images, channels last, and the parameters of a stem.
struct Problem {
  int64_t batch, height, width, outputs;
  int residual;                               // index in kResiduals
  std::vector<uint8_t> pixels;                // [N, H, W, C]
  std::vector<float> weight, gamma, beta;     // [O, Q, 3, 3], [O], [O]
  std::vector<float> mean, var;               // [O], of inference
  std::vector<float> conv_grad, pooled_grad;  // [N, rows, cols, O], [N, pooled rows, pooled cols, O]
  std::vector<PatchTap> taps = patch_taps(kResiduals[residual]);
  int64_t rows() const { return height / kCell; }
  int64_t cols() const { return width / kCell; }
  int64_t pooled_rows() const { return pooled(rows()); }
  int64_t pooled_cols() const { return pooled(cols()); }
  int64_t image_bytes() const { return kChannels * height * width; }
  int64_t map() const { return rows() * cols() * outputs; }
  int64_t pooled_map() const { return pooled_rows() * pooled_cols() * outputs; }

  int pixel(int64_t n, int c, int64_t y, int64_t x) const {
    return pixels[((n * height + y) * width + x) * kChannels + c];
  }
  // The differences that output (y, x) reads.
  std::vector<double> patch(int64_t n, int64_t y, int64_t x) const {
    std::vector<double> d;
    for (const PatchTap& at : taps) {
      const int64_t by = y + at.tap.row, bx = x + at.tap.col;
      const bool outside = by < 0 || bx < 0 || by >= rows() || bx >= cols();
      d.push_back(outside ? 0 : difference(at.tap.difference, n, at.channel, 2 * by, 2 * bx));
    }
    return d;
  }
  int difference(Difference of, int64_t n, int c, int64_t y, int64_t x) const {
    const int anchor = pixel(n, c, y, x);
    switch (of) {
      case Difference::right: return pixel(n, c, y, x + 1) - anchor;
      case Difference::below: return pixel(n, c, y + 1, x) - anchor;
      case Difference::corner: return pixel(n, c, y + 1, x + 1) - anchor;
      default: return anchor - pixel(n, c, y, x + 1) - pixel(n, c, y + 1, x) + pixel(n, c, y + 1, x + 1);
    }
  }
  int64_t weights() const { return kChannels * kResiduals[residual].maps * kPositions; }  // of an output
  double folded(int64_t o, size_t k) const { return double(weight[o * weights() + taps[k].weight]) * taps[k].scale; }
};

struct Truth {
  std::vector<double> patches;              // [positions, K]
  std::vector<double> map;                  // [positions, O]
  std::vector<int64_t> moments;             // [1 + K + K K]
  std::vector<double> mean, var;            // [O], of the batch
  std::vector<double> inference, training;  // [N, pooled rows, pooled cols, O]
  std::vector<uint8_t> code;                // likewise, in training
  std::vector<double> conv_grad_weight;     // [O, C, 3, 3]
  std::vector<double> grad_weight, grad_gamma, grad_beta;
};

// max_pool(relu(bn(map))), and where the maxima are.
inline void pool(const Problem& p, const std::vector<double>& map, const std::vector<double>& mean,
                 const std::vector<double>& var, std::vector<double>& out, std::vector<uint8_t>& code) {
  out.clear(), code.clear();
  for (int64_t i = 0; i < p.batch * p.pooled_map(); ++i) {
    const int64_t o = i % p.outputs, at = i / p.outputs, px = at % p.pooled_cols();
    const int64_t py = at / p.pooled_cols() % p.pooled_rows(), n = at / p.pooled_cols() / p.pooled_rows();
    double largest = 0;
    int where = kClosed;
    for (int window = 0; window < kPositions; ++window) {
      const int64_t y = 2 * py - 1 + window / kKernel, x = 2 * px - 1 + window % kKernel;
      if (y < 0 || x < 0 || y >= p.rows() || x >= p.cols()) continue;
      const double conv = map[((n * p.rows() + y) * p.cols() + x) * p.outputs + o];
      const double value = (conv - mean[o]) / std::sqrt(var[o] + kEps) * p.gamma[o] + p.beta[o];
      if (value > largest) largest = value, where = window;
    }
    out.push_back(largest), code.push_back(uint8_t(where));
  }
}

// A gradient of each tap, [O, K], as one of the weight.
inline std::vector<double> unfolded(const Problem& p, const std::vector<double>& of_taps) {
  std::vector<double> grad(p.outputs * p.weights());
  for (int64_t o = 0; o < p.outputs; ++o) {
    for (size_t k = 0; k < p.taps.size(); ++k) {
      grad[o * p.weights() + p.taps[k].weight] = of_taps[o * p.taps.size() + k] * p.taps[k].scale;
    }
  }
  return grad;
}

inline void backward(const Problem& p, Truth& t) {
  const size_t length = p.taps.size();
  std::vector<double> s(p.outputs * length), s0(p.outputs);
  for (int64_t i = 0; i < p.batch * p.pooled_map(); ++i) {
    if (t.code[i] == kClosed) continue;
    const int64_t o = i % p.outputs, at = i / p.outputs, px = at % p.pooled_cols();
    const int64_t py = at / p.pooled_cols() % p.pooled_rows(), n = at / p.pooled_cols() / p.pooled_rows();
    const int64_t y = 2 * py - 1 + t.code[i] / kKernel, x = 2 * px - 1 + t.code[i] % kKernel;
    const double* d = &t.patches[((n * p.rows() + y) * p.cols() + x) * length];
    for (size_t k = 0; k < length; ++k) s[o * length + k] += p.pooled_grad[i] * d[k];
    s0[o] += p.pooled_grad[i];
  }
  const double count = double(t.moments[0]);
  const int64_t *m1 = &t.moments[1], *m2 = &t.moments[1 + length];
  for (int64_t o = 0; o < p.outputs; ++o) {
    const double inverse = 1 / std::sqrt(t.var[o] + kEps);
    double s1 = -t.mean[o] * s0[o];
    for (size_t k = 0; k < length; ++k) s1 += p.folded(o, k) * s[o * length + k];
    s1 *= inverse;
    for (size_t k = 0; k < length; ++k) {
      double covariance = -t.mean[o] * double(m1[k]);
      for (size_t l = 0; l < length; ++l) covariance += p.folded(o, l) * double(m2[l * length + k]);
      double& of_tap = s[o * length + k];
      of_tap = p.gamma[o] * inverse * (of_tap - (s0[o] * double(m1[k]) + s1 * inverse * covariance) / count);
    }
    t.grad_gamma.push_back(s1), t.grad_beta.push_back(s0[o]);
  }
  t.grad_weight = unfolded(p, s);
}

inline Truth truth(const Problem& p) {
  Truth t;
  const size_t length = p.taps.size();
  t.moments.assign(1 + length + length * length, 0);
  std::vector<double> of_taps(p.outputs * length);
  t.mean.assign(p.outputs, 0), t.var.assign(p.outputs, 0);
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t y = 0; y < p.rows(); ++y) {
      for (int64_t x = 0; x < p.cols(); ++x) {
        const std::vector<double> d = p.patch(n, y, x);
        t.moments[0] += 1;
        for (size_t k = 0; k < length; ++k) {
          t.moments[1 + k] += int64_t(d[k]);
          for (size_t l = 0; l < length; ++l) t.moments[1 + length + k * length + l] += int64_t(d[k] * d[l]);
        }
        for (int64_t o = 0; o < p.outputs; ++o) {
          double value = 0;
          for (size_t k = 0; k < length; ++k) value += p.folded(o, k) * d[k];
          for (size_t k = 0; k < length; ++k) of_taps[o * length + k] += p.conv_grad[t.map.size()] * d[k];
          t.map.push_back(value);
          t.mean[o] += value, t.var[o] += value * value;
        }
        t.patches.insert(t.patches.end(), d.begin(), d.end());
      }
    }
  }
  t.conv_grad_weight = unfolded(p, of_taps);
  for (int64_t o = 0; o < p.outputs; ++o) {
    t.mean[o] /= double(t.moments[0]);
    t.var[o] = t.var[o] / double(t.moments[0]) - t.mean[o] * t.mean[o];
  }
  const std::vector<double> mean(p.mean.begin(), p.mean.end()), var(p.var.begin(), p.var.end());
  pool(p, t.map, mean, var, t.inference, t.code);
  pool(p, t.map, t.mean, t.var, t.training, t.code);
  backward(p, t);
  return t;
}

}  // namespace npr::bench
