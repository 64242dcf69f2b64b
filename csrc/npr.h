// Geometry of the fused operation, shared by every native kernel, host and device.
//
// NPR subtracts from each pixel the top-left pixel (the anchor) of its 2x2 cell. The first convolution
// is 3x3, stride 2, padding 1: its stride equals the cell, so output (oy, ox) is centred on the anchor
// (2 oy, 2 ox), where the residual is zero. Eight taps a channel remain. They read three kinds of
// difference, each indexed by cell (by, bx):
//
//     right (by, bx) = u[2by    ][2bx + 1] - u[2by][2bx]
//     below (by, bx) = u[2by + 1][2bx    ] - u[2by][2bx]
//     corner(by, bx) = u[2by + 1][2bx + 1] - u[2by][2bx]
//
//     tap   kernel (ky, kx)   difference
//      0        (0, 0)        corner(oy - 1, ox - 1)
//      1        (0, 1)        below (oy - 1, ox)
//      2        (0, 2)        corner(oy - 1, ox)
//      3        (1, 0)        right (oy,     ox - 1)
//      4        (1, 2)        right (oy,     ox)
//      5        (2, 0)        corner(oy,     ox - 1)
//      6        (2, 1)        below (oy,     ox)
//      7        (2, 2)        corner(oy,     ox)
//
// Cells outside the image read as zero: the padding pads the residual, not the image. An odd last row
// or column belongs to no cell and is dropped.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define NPR_HOST_DEVICE __host__ __device__
#else
#define NPR_HOST_DEVICE
#endif

namespace npr {

constexpr int kCell = 2;    // NPR cell, and the stride of the convolution
constexpr int kKernel = 3;  // convolution kernel
constexpr int kTaps = 8;    // taps that can be non-zero, per channel

// Index of a tap in the flattened 3x3 kernel: every position but the centre, 4.
NPR_HOST_DEVICE constexpr int tap_position(int tap) { return tap + (tap >= 4); }

enum class Difference { right, below, corner };
constexpr int kDifferences = 3;

struct Tap {
  Difference difference;
  int row;  // cell row relative to the output's: -1 or 0
  int col;  // cell column relative to the output's: -1 or 0
};

NPR_HOST_DEVICE constexpr Tap tap_source(int tap) {
  const int ky = tap_position(tap) / kKernel, kx = tap_position(tap) % kKernel;
  const Difference difference = ky == 1 ? Difference::right : kx == 1 ? Difference::below : Difference::corner;
  return {difference, ky == 0 ? -1 : 0, kx == 0 ? -1 : 0};
}

// A batch of uint8 images with arbitrary strides, in elements.
struct Images {
  const uint8_t* data;
  int64_t batch, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;

  // Rows and columns of cells, which are also those of the convolution's output.
  NPR_HOST_DEVICE constexpr int64_t rows() const { return height / kCell; }
  NPR_HOST_DEVICE constexpr int64_t cols() const { return width / kCell; }
  // Length of a patch: the reduction dimension of the convolution.
  NPR_HOST_DEVICE constexpr int64_t taps() const { return channels * kTaps; }
};

// Max-pooling 3x3, stride 2, padding 1 of `size` rows or columns.
NPR_HOST_DEVICE constexpr int64_t pooled(int64_t size) { return (size + 1) / 2; }

}  // namespace npr
