// Winograd's F(4x4, 3x3): sixteen outputs of a 3x3 convolution from 36 products a channel instead of 144.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016 (arXiv 1509.09308), Section 4.3: for a
// 6x6 tile d of the map and a kernel g, the 4x4 outputs are A^T [(G g G^T) * (B^T d B)] A, with the matrices of the
// interpolation points 0, 1, -1, 2, -2 and infinity. G g G^T is computed when weights are packed.
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

// B^T d for six values.
inline void winograd_in(const Vec<float> (&d)[6], Vec<float> (&to)[6]) {
  const Vec<float> even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
  const Vec<float> even2 = d[4] - d[2], odd2 = 2 * (d[3] - d[1]);
  to[0] = 4 * d[0] - 5 * d[2] + d[4];
  to[1] = even + odd;
  to[2] = even - odd;
  to[3] = even2 + odd2;
  to[4] = even2 - odd2;
  to[5] = 4 * d[1] - 5 * d[3] + d[5];
}

// A^T m for six values.
inline void winograd_out(const Vec<float> (&m)[6], Vec<float> (&to)[4]) {
  const Vec<float> sum = m[1] + m[2], difference = m[1] - m[2];
  const Vec<float> sum2 = m[3] + m[4], difference2 = m[3] - m[4];
  to[0] = m[0] + sum + sum2;
  to[1] = difference + 2 * difference2;
  to[2] = sum + 4 * sum2;
  to[3] = difference + 8 * difference2 + m[5];
}

// B^T d B of one vector of channels: d[i][j] lies at from + i * row + j * column, the result's 36 points `stride`
// apart.
inline void winograd_tile_in(const float* from, int64_t row, int64_t column, float* to, int64_t stride) {
  Vec<float> half[6][6];
  for (int j = 0; j < 6; ++j) {
    Vec<float> d[6], v[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) d[i] = load(from + i * row + j * column);
    winograd_in(d, v);
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) half[i][j] = v[i];
  }
  for (int i = 0; i < 6; ++i) {
    Vec<float> v[6];
    winograd_in(half[i], v);
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) store(to + (6 * i + j) * stride, v[j]);
  }
}

// A^T m A of one vector of channels: the 36 points of m lie `stride` apart. Calls finish(i, j, value) for 4x4 outputs.
template <class Finish>
inline void winograd_tile_out(const float* from, int64_t stride, Finish finish) {
  Vec<float> half[4][6];
  for (int j = 0; j < 6; ++j) {
    Vec<float> m[6], y[4];
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) m[i] = load(from + (6 * i + j) * stride);
    winograd_out(m, y);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) half[i][j] = y[i];
  }
  for (int i = 0; i < 4; ++i) {
    Vec<float> y[4];
    winograd_out(half[i], y);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) finish(i, j, y[j]);
  }
}

}  // namespace
}  // namespace npr::cpu
