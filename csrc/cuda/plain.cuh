// What the plain kernels read: one difference at a time, of images with any number of channels.
#pragma once

#include "cuda/launch.cuh"

namespace npr::cuda {

constexpr int kPlainThreads = 256;

// The difference that `tap` reads for output (row, col), in the plane of one channel of one image.
__device__ inline int difference(const Images& images, const uint8_t* plane, int64_t row, int64_t col, int tap) {
  const Tap source = tap_source(Map::npr, tap);
  const int64_t cell_row = row + source.row, cell_col = col + source.col;
  if (cell_row < 0 || cell_col < 0) return 0;
  const uint8_t* anchor = plane + kCell * cell_row * images.stride_h + kCell * cell_col * images.stride_w;
  const int64_t below = source.difference != Difference::right ? images.stride_h : 0;
  const int64_t right = source.difference != Difference::below ? images.stride_w : 0;
  return int(anchor[below + right]) - int(anchor[0]);
}

}  // namespace npr::cuda
