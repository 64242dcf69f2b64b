// How tiles of outputs cover a batch of images, and how blocks take them in turn.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/slots.cuh"

namespace npr::cuda {

// How the bytes of a batch can be read.
struct ImageSource {
  Images images;
  int unit;          // bytes at a time: 16 or another wide number, or 4, or 1: one by one, at any strides
  bool interleaved;  // channels_last: the bytes of a pixel are neighbours, in shared memory too
};

inline ImageSource image_source(const Images& images, int wide = 16) {
  const bool planar = images.stride_w == 1, interleaved = images.stride_c == 1 && images.stride_w == kChannels;
  uint64_t bits = reinterpret_cast<uintptr_t>(images.data) | uint64_t(images.stride_n) | uint64_t(images.stride_h);
  if (planar) bits |= uint64_t(images.stride_c);
  if ((!planar && !interleaved) || bits % 4) return {images, 1, false};
  return {images, bits % wide ? 4 : wide, interleaved};
}

// How tiles of outputs cover a batch: the tile's number counts across, then down, then by image. Tiles
// number at most 2^30: a tile's number plus the blocks of a grid, which are no more, is an int.
struct Tiling {
  static constexpr int64_t kMost = int64_t(1) << 30;
  static constexpr int64_t kMostSide = int64_t(1) << 28;  // so that a row's bytes, at most 6 of an output, are an int
  ImageSource source;
  int rows, cols;          // outputs of an image
  int down, across;        // tiles of an image
  int row_step, col_step;  // from tile to tile, in outputs
  int first_row, first_col;
  int count;  // 0 where there would be more than kMost

  struct Position {
    int image, row, col;  // of the tile's first output
  };

  // Tiles side by side.
  template <class Tile>
  static Tiling of(const Images& images) {
    return of(images, ceil_div(images.rows(), Tile::kRows), ceil_div(images.cols(), Tile::kCols), Tile::kRows,
              Tile::kCols, 0, 0);
  }

  static Tiling of(const Images& images, int64_t down, int64_t across, int row_step, int col_step, int first_row,
                   int first_col) {
    // Each comparison keeps the products of the next one within 64 bits.
    const bool countable = images.rows() <= kMostSide && images.cols() <= kMostSide && images.batch <= kMost &&
                           down * across <= kMost && images.batch * down * across <= kMost;
    return {image_source(images),
            int(images.rows()),
            int(images.cols()),
            int(down),
            int(across),
            row_step,
            col_step,
            first_row,
            first_col,
            countable ? int(images.batch * down * across) : 0};
  }

  // Whether the tiles of these images could be counted.
  Status check(const Images& images) const {
    if (count > 0 || images.batch == 0) return {};
    if (images.rows() > kMostSide || images.cols() > kMostSide) {
      return {"tiling", "the images have more than 2^28 rows or columns of outputs"};
    }
    return {"tiling", "the images have more than 2^30 tiles of outputs; split the batch"};
  }

  __device__ Position position(int tile) const {
    const unsigned index = tile, row = index / unsigned(across);
    return {int(row / unsigned(down)), int(row % unsigned(down)) * row_step + first_row,
            int(index % unsigned(across)) * col_step + first_col};
  }
};

// For each tile of this block, begin(position of the tile), and once its patches are built multiply(position). After
// the last one, threads may still be reading the patches.
template <class Tile, class Begin, class Multiply>
__device__ void for_each_tile(const Tiling& tiling, Tile& patches, const Begin& begin, const Multiply& multiply) {
  if (int(blockIdx.x) >= tiling.count) return;
  Tiling::Position next = tiling.position(blockIdx.x);
  patches.stage(tiling.source, next);
  for (int tile = blockIdx.x; tile < tiling.count; tile += gridDim.x) {
    const Tiling::Position position = next;
    begin(position);
    wait_for_copies();
    __syncthreads();  // the bytes have arrived, and the patches before are used up
    patches.build(tiling.source, position.col);
    __syncthreads();  // the patches are built, and the bytes used up
    if (tile + int(gridDim.x) < tiling.count) {
      next = tiling.position(tile + gridDim.x);
      patches.stage(tiling.source, next);
    }
    multiply(position);
  }
}

template <class Tile, class Multiply>
__device__ void for_each_tile(const Tiling& tiling, Tile& patches, const Multiply& multiply) {
  for_each_tile(tiling, patches, [](const Tiling::Position&) {}, multiply);
}

}  // namespace npr::cuda
