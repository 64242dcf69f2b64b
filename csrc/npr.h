// Geometry of the fused operation, shared by every native kernel, host and device.
//
// Both residuals look at cells of 2x2 pixels, u[2by][2bx] being the top left one (the anchor) of cell
// (by, bx). An odd last row or column belongs to no cell and is dropped. The convolution is 3x3 and has one
// output for each cell. What it reads are differences within a cell, each a plane indexed by (by, bx):
//
//     right   (by, bx) = u[2by    ][2bx + 1] - u[2by][2bx]
//     below   (by, bx) = u[2by + 1][2bx    ] - u[2by][2bx]
//     corner  (by, bx) = u[2by + 1][2bx + 1] - u[2by][2bx]
//     diagonal(by, bx) = u[2by][2bx] - u[2by][2bx + 1] - u[2by + 1][2bx] + u[2by + 1][2bx + 1]
//
// NPR subtracts from each pixel the anchor of its cell and keeps the image's size. Its convolution has
// stride 2, the cell, and padding 1: output (oy, ox) is centred on the anchor (2 oy, 2 ox), where the
// residual is zero. Eight taps a channel remain:
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
// Haar is the diagonal band of the Haar transform, twice over, so that it is an integer: one value for
// each cell. Its convolution has stride 1 and padding 1, and nine taps a channel, (ky, kx) reading
// diagonal(oy + ky - 1, ox + kx - 1).
//
// Cells outside the image read as zero: the padding pads the residual, not the image.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__CUDACC__)
#define NPR_HOST_DEVICE __host__ __device__
#else
#define NPR_HOST_DEVICE
#endif

namespace npr {

constexpr int kCell = 2;    // side of a cell, in pixels
constexpr int kKernel = 3;  // convolution kernel
constexpr int kPositions = kKernel * kKernel;

enum class Difference { right, below, corner, diagonal };

// What one channel of the weight reads of one channel of the image.
enum class Map { npr, haar };

// Taps that can be non-zero, of each channel.
NPR_HOST_DEVICE constexpr int taps_of(Map map) { return map == Map::npr ? 8 : 9; }
// Whether the centre of the kernel meets zeros only.
NPR_HOST_DEVICE constexpr bool dead_centre(Map map) { return map == Map::npr; }
// Index of a tap in the flattened 3x3 kernel.
NPR_HOST_DEVICE constexpr int tap_position(Map map, int tap) {
  return tap + (dead_centre(map) && tap >= kPositions / 2);
}

struct Tap {
  Difference difference;
  int row;  // cell row relative to the output's: -1, 0 or 1
  int col;  // cell column relative to the output's: -1, 0 or 1
};

NPR_HOST_DEVICE constexpr Tap tap_source(Map map, int tap) {
  const int ky = tap_position(map, tap) / kKernel, kx = tap_position(map, tap) % kKernel;
  if (map == Map::haar) return {Difference::diagonal, ky - 1, kx - 1};
  const Difference difference = ky == 1 ? Difference::right : kx == 1 ? Difference::below : Difference::corner;
  return {difference, ky == 0 ? -1 : 0, kx == 0 ? -1 : 0};
}

// Magnitude that a difference of bytes can have.
NPR_HOST_DEVICE constexpr int largest(Difference difference) { return difference == Difference::diagonal ? 510 : 255; }

// A residual: the maps that the weight's channels read, each of all channels of the image. So a weight has
// maps x channels input channels, and the taps follow in its order, k = (map, channel, tap).
struct Residual {
  const char* name;
  int maps;
  Map map[2];
  int taps;         // of each channel of the image
  int first, last;  // the differences that the taps read
  int below;        // how many rows of cells below the output's they read
  int largest;      // magnitude of a difference
};

constexpr Residual residual_of(const char* name, int maps, Map map, Map second = {}) {
  Residual r{name, maps, {map, second}, 0, int(Difference::diagonal), 0, 0, 0};
  for (int m = 0; m < maps; ++m) {
    for (int t = 0; t < taps_of(r.map[m]); ++t, ++r.taps) {
      const Tap tap = tap_source(r.map[m], t);
      r.first = std::min(r.first, int(tap.difference));
      r.last = std::max(r.last, int(tap.difference));
      r.below = std::max(r.below, tap.row);
      r.largest = std::max(r.largest, largest(tap.difference));
    }
  }
  return r;
}

constexpr Residual kResiduals[] = {
    residual_of("npr", 1, Map::npr),
    residual_of("haar", 1, Map::haar),
    residual_of("npr+haar", 2, Map::npr, Map::haar),
};

// A batch of uint8 images with arbitrary strides, in elements.
struct Images {
  const uint8_t* data;
  int64_t batch, channels, height, width;
  int64_t stride_n, stride_c, stride_h, stride_w;

  // Rows and columns of cells, which are also those of the convolution's output.
  NPR_HOST_DEVICE constexpr int64_t rows() const { return height / kCell; }
  NPR_HOST_DEVICE constexpr int64_t cols() const { return width / kCell; }
};

// What a convolution reads: images through a residual.
struct Source {
  Images images;
  Residual residual;

  NPR_HOST_DEVICE constexpr int64_t weight_channels() const { return images.channels * residual.maps; }
  // Length of a patch: the reduction dimension of the convolution.
  NPR_HOST_DEVICE constexpr int64_t taps() const { return images.channels * residual.taps; }
};

// Of a pooled output, the position of its maximum in the window, the first of equals, is a number below this one; this
// one says that ReLU's gate is closed. Kernels for results of 16 bits may take values for equal that differ by less
// than 2^-19 of themselves.
constexpr uint8_t kClosed = 9;

// Max-pooling 3x3, stride 2, padding 1 of `size` rows or columns.
NPR_HOST_DEVICE constexpr int64_t pooled(int64_t size) { return (size + 1) / 2; }

}  // namespace npr
