// Patches of differences in shared memory: the operand that every tensor-core kernel multiplies.
//
// The patch of a convolution output is, for each of 3 channels, the eight differences of npr.h, as
// eight 16-bit floating-point numbers, exact: one 16-byte row of an 8x8 matrix, which ldmatrix reads
// along the taps (forward) or, transposed, along the outputs (backward). A block works on a tile of
// outputs at a time:
//
//     stage   copies the bytes under the tile to shared memory, asynchronously, 16 at a time where
//             the images are aligned so; bytes outside the image become zero, which makes every
//             difference that the padding touches zero
//     build   forms the differences. Under 0x64 a byte p is the float16 number 1024 + p, so that
//             (1024 + p) - (1024 + a) = p - a, without rounding, two at a time
//
// A kernel's loop is: wait for the bytes, build, stage the next tile, multiply. The bytes of one tile
// are on their way while the one before is multiplied.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace npr::cuda {

constexpr int kChannels = 3;  // of the tensor-core kernels; other images take the plain ones

// How the bytes of a batch can be copied.
struct ImageSource {
  Images images;
  int unit;          // bytes at a time: 16 or 4, or 1: one by one, at any strides
  bool interleaved;  // channels_last: the bytes of a pixel are neighbours, in shared memory too
};

inline ImageSource image_source(const Images& images) {
  const bool planar = images.stride_w == 1, interleaved = images.stride_c == 1 && images.stride_w == kChannels;
  uint64_t bits = reinterpret_cast<uintptr_t>(images.data) | uint64_t(images.stride_n) | uint64_t(images.stride_h);
  if (planar) bits |= uint64_t(images.stride_c);
  if ((!planar && !interleaved) || bits % 4) return {images, 1, false};
  return {images, bits % 16 ? 4 : 16, interleaved};
}

// How tiles of outputs cover a batch: the tile's number counts across, then down, then by image. Tiles
// number at most 2^30: a tile's number plus the blocks of a grid, which are no more, is an int.
struct Tiling {
  static constexpr int64_t kMost = int64_t(1) << 30;
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
    const bool countable = images.rows() <= kMost && images.cols() <= kMost && images.batch <= kMost &&
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
    return {"tiling", "the images have more than 2^30 tiles of outputs; split the batch"};
  }

  __device__ Position position(int tile) const {
    const unsigned index = tile, row = index / unsigned(across);
    return {int(row / unsigned(down)), int(row % unsigned(down)) * row_step + first_row,
            int(index % unsigned(across)) * col_step + first_col};
  }
};

// A 16-byte row per position, ordered so that the eight rows of a matrix lie in different banks when
// the positions are consecutive, when they are every other one, and when they are four pairs eight apart.
__device__ inline int patch_row(int position) {
  const int block = (position >> 3) & 3;
  return position ^ block ^ (block << 1);
}

// Group of four tiles of eight: position or channel of a tile's index such that what a thread holds of the four, the
// pairs (2t, 2t + 1), are runs of kRun consecutive ones, which it loads or stores at once. The order is free: it only
// says which row or column of an MMA stands for what.
template <int kRun>
NPR_HOST_DEVICE constexpr int spread(int tile, int index) {
  return 2 * tile / kRun * (4 * kRun) + index / 2 * kRun + 2 * tile % kRun + index % 2;
}

// Patches of kRows x kCols outputs, of number type T (Half or BFloat). Tiles begin at even columns.
template <class T, int kRows_, int kCols_>
struct PatchTile {
  static constexpr int kRows = kRows_, kCols = kCols_, kPositions = kRows * kCols;
  static constexpr int kRun = kRows % 2 == 0 ? 2 : 3;  // rows that a thread walks down
  static_assert(kRows % kRun == 0 && kCols % 2 == 0);

  // Pixels under the tile, with the row and column of cells above and to the left of it; copies begin
  // at multiples of 16.
  static constexpr int kPixelRows = 2 * kRows + 2, kPixelCols = 2 * kCols + 2;
  static constexpr int kPitch = (kPixelCols + 15 + 15) / 16 * 16;
  static constexpr int kInterleavedPitch = (kChannels * kPixelCols + 15 + 15) / 16 * 16;
  static_assert(kInterleavedPitch <= kChannels * kPitch);

  uint4 patches[kChannels][(kPositions + 31) / 32 * 32];
  uint8_t bytes[kChannels * kPixelRows * kPitch];

  __device__ const uint4* patch(int channel, int position) const { return &patches[channel][patch_row(position)]; }

  // First byte, in its row, of what is staged for a tile that begins at output column `col`.
  __device__ static int first_byte(int col, int pixel_bytes) { return (2 * col - 2) * pixel_bytes & ~15; }

  // Starts the copy of the bytes under the tile at `tile`, by all threads.
  __device__ void stage(const ImageSource& source, const Tiling::Position& tile) {
    const uint8_t* data = source.images.data + tile.image * source.images.stride_n;
    const int row = tile.row, col = tile.col;
    if (source.unit == 16) {
      source.interleaved ? stage_units<16, true>(source.images, data, row, col)
                         : stage_units<16, false>(source.images, data, row, col);
    } else if (source.unit == 4) {
      source.interleaved ? stage_units<4, true>(source.images, data, row, col)
                         : stage_units<4, false>(source.images, data, row, col);
    } else {
      stage_bytes(source.images, data, row, col);
    }
  }

  // Forms the patches of the staged tile, by all threads.
  __device__ void build(const ImageSource& source, int col) {
    source.interleaved ? build_from<true>(col) : build_from<false>(col);
  }

 private:
  template <int kUnit, bool interleaved>
  __device__ void stage_units(const Images& images, const uint8_t* data, int row, int col) {
    constexpr int kPlanes = interleaved ? 1 : kChannels, kPixelBytes = interleaved ? kChannels : 1;
    constexpr int kRowBytes = interleaved ? kInterleavedPitch : kPitch, kUnits = kRowBytes / kUnit;
    const int first = first_byte(col, kPixelBytes), row_bytes = int(images.cols()) * kCell * kPixelBytes;
#pragma unroll 1
    for (int i = threadIdx.x; i < kPlanes * kPixelRows * kUnits; i += blockDim.x) {
      const int unit = i % kUnits, plane_row = i / kUnits, plane = plane_row / kPixelRows;
      const int x = first + unit * kUnit, y = 2 * row - 2 + plane_row % kPixelRows;
      const bool inside = x >= 0 && x < row_bytes && y >= 0 && y < images.rows() * kCell;
      const int valid = inside ? min(row_bytes - x, kUnit) : 0;
      const uint8_t* from = inside ? data + plane * images.stride_c + y * images.stride_h + x : images.data;
      copy_async<kUnit>(bytes + plane_row * kRowBytes + unit * kUnit, from, valid);
    }
  }

  // A warp loads a row at a time, all of its bytes before it stores the first.
  __device__ void stage_bytes(const Images& images, const uint8_t* data, int row, int col) {
    constexpr int kLoads = (kPitch + kWarp - 1) / kWarp;
    const int first = first_byte(col, 1);
#pragma unroll 1
    for (int plane_row = warp_index(); plane_row < kChannels * kPixelRows; plane_row += blockDim.x / kWarp) {
      const int plane = plane_row / kPixelRows, y = 2 * row - 2 + plane_row % kPixelRows;
      const bool inside = y >= 0 && y < images.rows() * kCell;
      const uint8_t* from = data + plane * images.stride_c + y * images.stride_h;
      uint8_t loaded[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int x = first + lane_index() + i * kWarp;
        loaded[i] = inside && x >= 0 && x < images.cols() * kCell ? from[x * images.stride_w] : 0;
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int at = lane_index() + i * kWarp;
        if (at < kPitch) bytes[plane_row * kPitch + at] = loaded[i];
      }
    }
  }

  // Cells side by side that two neighbouring outputs need: to the left of both, the first's own, the second's own.
  static constexpr int kCells = 3;
  using Cells = uint32_t[kChannels][kCells];

  static constexpr uint32_t k1024 = 0x64646464;

  // Of a row of pixels, the two of each cell as float16 numbers 1024 + p. `offset`, a multiple of 4, is that of the
  // first output's own cell.
  template <bool interleaved>
  __device__ void load_pixels(Cells& pixels, int pixel_row, int offset) const {
    if constexpr (interleaved) {
      constexpr int kLeft = kChannels * kCell, kWords = 5;  // 2 bytes, and 18 of the cells
      const auto* from = reinterpret_cast<const uint32_t*>(bytes + pixel_row * kInterleavedPitch + offset - kLeft - 2);
      uint32_t words[kWords];
#pragma unroll
      for (int i = 0; i < kWords; ++i) words[i] = from[i];
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
        for (int i = 0; i < kCells; ++i) {
          const int first = 2 + i * kLeft + channel, word = first / 4, byte = first % 4;
          if (byte == 0) {
            pixels[channel][i] = permute_bytes(words[word], k1024, 0x4340);
          } else {
            const uint32_t two = permute_bytes(words[word], words[word + 1], byte | (byte + kChannels) << 4);
            pixels[channel][i] = permute_bytes(two, k1024, 0x4140);
          }
        }
      }
    } else {
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
        const auto* own =
            reinterpret_cast<const uint32_t*>(bytes + (channel * kPixelRows + pixel_row) * kPitch + offset);
        pixels[channel][0] = permute_bytes(own[-1], k1024, 0x4342);
        pixels[channel][1] = permute_bytes(own[0], k1024, 0x4140);
        pixels[channel][2] = permute_bytes(own[0], k1024, 0x4342);
      }
    }
  }

  // The differences of cells: (below, corner), and (0, right) if asked for.
  template <bool interleaved>
  __device__ void load_cells(Cells& below_corner, Cells* right, int row, int offset) const {
    Cells top, bottom;
    load_pixels<interleaved>(top, 2 * row, offset);
    load_pixels<interleaved>(bottom, 2 * row + 1, offset);
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
      for (int i = 0; i < kCells; ++i) {
        const uint32_t anchor = top[channel][i];
        below_corner[channel][i] = number(subtract_lower_half(bottom[channel][i], anchor));
        if (right != nullptr) (*right)[channel][i] = number(subtract_lower_half(top[channel][i], anchor));
      }
    }
  }

  // Two float16 numbers as numbers of type T; integers up to 255 fit bfloat16 too.
  __device__ static uint32_t number(uint32_t halves) {
    if constexpr (std::is_same_v<T, Half>) {
      return halves;
    } else {
      return pack<T>(to_float(Half{uint16_t(halves)}), to_float(Half{uint16_t(halves >> 16)}));
    }
  }

  // A thread walks down the outputs of two columns, and so forms the cells between them once.
  template <bool interleaved>
  __device__ void build_from(int col) {
    constexpr int kPixelBytes = interleaved ? kChannels : 1, kPairs = kCols / 2;
    const int start = (2 * col - 2) * kPixelBytes - first_byte(col, kPixelBytes);  // of the cell to the left
#pragma unroll 1
    for (int i = threadIdx.x; i < kPairs * (kRows / kRun); i += blockDim.x) {
      const int x = i % kPairs * 2, row = i / kPairs * kRun, offset = start + (x + 1) * kCell * kPixelBytes;
      Cells upper, below_corner, right;
      load_cells<interleaved>(upper, nullptr, row, offset);
#pragma unroll
      for (int y = 0; y < kRun; ++y) {
        load_cells<interleaved>(below_corner, &right, row + y + 1, offset);
#pragma unroll
        for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            patches[channel][patch_row((row + y) * kCols + x + k)] = {
                permute_bytes(upper[channel][k], upper[channel][k + 1], 0x5432),         // corner, below
                permute_bytes(upper[channel][k + 1], right[channel][k], 0x7632),         // corner, right
                permute_bytes(right[channel][k + 1], below_corner[channel][k], 0x7632),  // right, corner
                below_corner[channel][k + 1],                                            // below, corner
            };
          }
#pragma unroll
          for (int k = 0; k < kCells; ++k) upper[channel][k] = below_corner[channel][k];
        }
      }
    }
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

// The four words that build() writes are the eight taps of npr.h.
constexpr bool same(Tap tap, Difference difference, int row, int col) {
  return tap.difference == difference && tap.row == row && tap.col == col;
}
static_assert(same(tap_source(Map::npr, 0), Difference::corner, -1, -1) &&
              same(tap_source(Map::npr, 1), Difference::below, -1, 0) &&
              same(tap_source(Map::npr, 2), Difference::corner, -1, 0) &&
              same(tap_source(Map::npr, 3), Difference::right, 0, -1) &&
              same(tap_source(Map::npr, 4), Difference::right, 0, 0) &&
              same(tap_source(Map::npr, 5), Difference::corner, 0, -1) &&
              same(tap_source(Map::npr, 6), Difference::below, 0, 0) &&
              same(tap_source(Map::npr, 7), Difference::corner, 0, 0));

}  // namespace npr::cuda
