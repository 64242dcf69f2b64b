// What the operations compute, written down once more: one position after the other, in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "npr.h"

namespace npr::bench {

constexpr int kChannels = 3, kTaps = taps_of(Map::npr), kPatch = kChannels * kTaps;
constexpr int kClosed = 9;
constexpr double kEps = 1e-5;
constexpr double kScale[kChannels] = {2 / 3. / 255 / 0.229, 2 / 3. / 255 / 0.224, 2 / 3. / 255 / 0.225};

// A batch of images, channels last, and the parameters of a stem.
struct Problem {
  int64_t batch, height, width, outputs;
  std::vector<uint8_t> pixels;                // [N, H, W, C]
  std::vector<float> weight, gamma, beta;     // [O, C, 3, 3], [O], [O]
  std::vector<float> mean, var;               // [O], of inference
  std::vector<float> conv_grad, pooled_grad;  // [N, rows, cols, O], [N, pooled rows, pooled cols, O]
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
  // The differences that output (y, x) reads, k = 8 channel + tap.
  std::vector<double> patch(int64_t n, int64_t y, int64_t x) const {
    std::vector<double> d(kPatch);
    for (int k = 0; k < kPatch; ++k) {
      const Tap tap = tap_source(Map::npr, k % kTaps);
      const int64_t by = y + tap.row, bx = x + tap.col;
      if (by < 0 || bx < 0 || by >= rows() || bx >= cols()) continue;
      const int down = tap.difference != Difference::right, right = tap.difference != Difference::below;
      const int c = k / kTaps;
      d[k] = pixel(n, c, 2 * by + down, 2 * bx + right) - pixel(n, c, 2 * by, 2 * bx);
    }
    return d;
  }
  double folded(int64_t o, int k) const {
    const int c = k / kTaps;
    return double(weight[(o * kChannels + c) * kPositions + tap_position(Map::npr, k % kTaps)]) * kScale[c];
  }
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
  std::vector<double> grad(p.outputs * kChannels * kPositions);
  for (int64_t o = 0; o < p.outputs; ++o) {
    for (int k = 0; k < kPatch; ++k) {
      const int c = k / kTaps;
      grad[(o * kChannels + c) * kPositions + tap_position(Map::npr, k % kTaps)] = of_taps[o * kPatch + k] * kScale[c];
    }
  }
  return grad;
}

inline void backward(const Problem& p, Truth& t) {
  std::vector<double> s(p.outputs * kPatch), s0(p.outputs);
  for (int64_t i = 0; i < p.batch * p.pooled_map(); ++i) {
    if (t.code[i] == kClosed) continue;
    const int64_t o = i % p.outputs, at = i / p.outputs, px = at % p.pooled_cols();
    const int64_t py = at / p.pooled_cols() % p.pooled_rows(), n = at / p.pooled_cols() / p.pooled_rows();
    const int64_t y = 2 * py - 1 + t.code[i] / kKernel, x = 2 * px - 1 + t.code[i] % kKernel;
    const double* d = &t.patches[((n * p.rows() + y) * p.cols() + x) * kPatch];
    for (int k = 0; k < kPatch; ++k) s[o * kPatch + k] += p.pooled_grad[i] * d[k];
    s0[o] += p.pooled_grad[i];
  }
  const double count = double(t.moments[0]);
  const int64_t *m1 = &t.moments[1], *m2 = &t.moments[1 + kPatch];
  for (int64_t o = 0; o < p.outputs; ++o) {
    const double inverse = 1 / std::sqrt(t.var[o] + kEps);
    double s1 = -t.mean[o] * s0[o];
    for (int k = 0; k < kPatch; ++k) s1 += p.folded(o, k) * s[o * kPatch + k];
    s1 *= inverse;
    for (int k = 0; k < kPatch; ++k) {
      double covariance = -t.mean[o] * double(m1[k]);
      for (int l = 0; l < kPatch; ++l) covariance += p.folded(o, l) * double(m2[l * kPatch + k]);
      double& of_tap = s[o * kPatch + k];
      of_tap = p.gamma[o] * inverse * (of_tap - (s0[o] * double(m1[k]) + s1 * inverse * covariance) / count);
    }
    t.grad_gamma.push_back(s1), t.grad_beta.push_back(s0[o]);
  }
  t.grad_weight = unfolded(p, s);
}

inline Truth truth(const Problem& p) {
  Truth t;
  t.moments.assign(1 + kPatch + kPatch * kPatch, 0);
  std::vector<double> of_taps(p.outputs * kPatch);
  t.mean.assign(p.outputs, 0), t.var.assign(p.outputs, 0);
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t y = 0; y < p.rows(); ++y) {
      for (int64_t x = 0; x < p.cols(); ++x) {
        const std::vector<double> d = p.patch(n, y, x);
        t.moments[0] += 1;
        for (int k = 0; k < kPatch; ++k) {
          t.moments[1 + k] += int64_t(d[k]);
          for (int l = 0; l < kPatch; ++l) t.moments[1 + kPatch + k * kPatch + l] += int64_t(d[k] * d[l]);
        }
        for (int64_t o = 0; o < p.outputs; ++o) {
          double value = 0;
          for (int k = 0; k < kPatch; ++k) value += p.folded(o, k) * d[k];
          for (int k = 0; k < kPatch; ++k) of_taps[o * kPatch + k] += p.conv_grad[t.map.size()] * d[k];
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
