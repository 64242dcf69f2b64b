// The algebra of the stem in training, in double: batch statistics from patch moments, batch norm's scale
// and shift, and the gradients from the sums that the backward pass gathers.
//
// The convolution is linear in the patch d (K integers), so its batch statistics follow from the
// patch moments N, M1 = sum d and M2 = sum d d^T. With W the weights in units of d:
//
//     mean = W M1 / N          var = W (M2 / N - M1 M1^T / N^2) W^T, diagonal
//     alpha = gamma rsqrt(var + eps)          shift = beta - alpha mean
//
// Backward, with S = sum g d and s0 = sum g over the pooled gradient where ReLU's gate is open, at the
// arg-max positions, inv = rsqrt(var + eps) and XD = inv (W M2 - mean M1^T) = sum xhat d^T:
//
//     dbeta = s0          dgamma = s1 = inv (W . S - mean s0)
//     dW = gamma inv (S - s0 M1 / N - s1 XD / N)
//
// With frozen statistics, mean and var are constants and dW = gamma inv S.
//
// Synchronised over ranks, N, M1 and M2 cover all of them. The terms over N are linear in s0 and s1, so a
// rank that uses its own S, s0 and s1 returns its share, and the shares add up to the whole gradient: the
// backward pass needs no communication.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace npr {

// Views of the moments, int64 [1 + K + K * K].
struct Moments {
  const int64_t* data;
  int64_t taps;
  int64_t count() const { return data[0]; }
  int64_t first(int64_t k) const { return data[1 + k]; }
  int64_t second(int64_t k, int64_t l) const { return data[1 + taps + k * taps + l]; }
};

// mean and biased variance of the convolution's outputs; weight [outputs][taps] in units of d.
// The covariance is formed of integers, so it is exact, and zero for constant images.
inline void batch_statistics(Moments moments, const double* weight, int64_t outputs, double* mean, double* var) {
  const int64_t taps = moments.taps;
  const double n = double(moments.count());
  std::vector<double> covariance(taps * taps);
  for (int64_t k = 0; k < taps; ++k) {
    for (int64_t l = 0; l < taps; ++l) {
      const __int128 scaled =
          __int128(moments.count()) * moments.second(k, l) - __int128(moments.first(k)) * moments.first(l);
      covariance[k * taps + l] = double(scaled) / (n * n);
    }
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const double* w = weight + o * taps;
    double m = 0, v = 0;
    for (int64_t k = 0; k < taps; ++k) {
      double row = 0;
      for (int64_t l = 0; l < taps; ++l) row += covariance[k * taps + l] * w[l];
      m += w[k] * (double(moments.first(k)) / n);
      v += w[k] * row;
    }
    mean[o] = m;
    var[o] = v < 0 ? 0 : v;  // rounding can take a variance of zero below it; NaN stays
  }
}

struct StemGradient {
  int64_t outputs, taps;
  const double* weight;  // [outputs][taps], in units of d
  const double* gamma;   // [outputs], or null for ones
  const double* mean;    // [outputs]
  const double* var;     // [outputs]
  double eps;
  const double* sums;      // [outputs][taps + 1]: S, and s0 last
  const int64_t* moments;  // or null for frozen statistics
};

// Gradients with respect to the weight in units of d [outputs][taps], gamma and beta [outputs].
inline void stem_gradient(const StemGradient& in, double* dweight, double* dgamma, double* dbeta) {
  const int64_t taps = in.taps;
  for (int64_t o = 0; o < in.outputs; ++o) {
    const double* w = in.weight + o * taps;
    const double* sums = in.sums + o * (taps + 1);
    const double inv = 1 / std::sqrt(in.var[o] + in.eps), scale = (in.gamma ? in.gamma[o] : 1) * inv;
    double ws = 0;
    for (int64_t k = 0; k < taps; ++k) ws += w[k] * sums[k];
    dbeta[o] = sums[taps];
    dgamma[o] = inv * (ws - in.mean[o] * sums[taps]);
    for (int64_t k = 0; k < taps; ++k) {
      double dense = 0;
      if (in.moments) {
        const Moments moments{in.moments, taps};
        double wm2 = 0;
        for (int64_t l = 0; l < taps; ++l) wm2 += w[l] * double(moments.second(l, k));
        const double xd = inv * (wm2 - in.mean[o] * double(moments.first(k)));
        dense = (dbeta[o] * double(moments.first(k)) + dgamma[o] * xd) / double(moments.count());
      }
      dweight[o * taps + k] = scale * (sums[k] - dense);
    }
  }
}

}  // namespace npr
