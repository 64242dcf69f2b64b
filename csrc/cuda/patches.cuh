// Patches of differences in shared memory: the operand that every tensor-core kernel multiplies.
//
// The patch of a convolution output is the differences of npr.h as 16-bit floating-point numbers, exact, in octets
// (slots.cuh), which ldmatrix reads along the taps (forward) or, transposed, along the outputs (backward). A block
// works on a tile of outputs at a time:
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

#include "cuda/tiling.cuh"

namespace npr::cuda {

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

// Columns of a tile that has 8 rows: with more octets fewer, so that 48 KB of shared memory hold a block's patches.
template <int kResidual>
constexpr int kTileCols = Slots<kResidual>::kOctets > kChannels ? 32 : 64;

// Patches of kRows x kCols outputs, of number type T (Half or BFloat). Tiles begin at even columns. Where every other
// column is read, those of a row may be parted: the even ones, then the odd ones. Rows of a matrix are neighbours then.
template <int kResidual, class T, int kRows_, int kCols_, bool parted = false>
struct PatchTile {
  using Octets = Slots<kResidual>;
  static constexpr int kRows = kRows_, kCols = kCols_, kPositions = kRows * kCols;
  static constexpr int kRun = kRows % 2 == 0 ? 2 : 3;  // rows that a thread walks down
  static_assert(kRows % kRun == 0 && kCols % 2 == 0);

  // Pixels under the tile, with the row and column of cells above and to the left of it, and, as far as the residual
  // reads them, below and to the right; copies begin at multiples of 16.
  static constexpr int kBeyond = 1 + Octets::kRead.below;
  static constexpr int kPixelRows = 2 * (kRows + kBeyond), kPixelCols = 2 * (kCols + kBeyond);
  static constexpr int kPitch = (kPixelCols + 15 + 15) / 16 * 16;
  static constexpr int kInterleavedPitch = (kChannels * kPixelCols + 15 + 15) / 16 * 16;
  static_assert(kInterleavedPitch <= kChannels * kPitch);

  static constexpr int kStride = (kPositions + 31) / 32 * 32;  // from octet to octet of a position
  uint4 patches[Octets::template kStored<T>][kStride];
  uint8_t bytes[kChannels * kPixelRows * kPitch];

  __device__ const uint4* patch(int octet, int position) const { return &patches[octet][patch_row(position)]; }

  // The same by row and column.
  NPR_HOST_DEVICE static constexpr int parted_row(int row, int col) {
    return row * kCols + col % 2 * (kCols / 2) + col / 2;
  }
  __device__ static int place(int row, int col) { return parted ? parted_row(row, col) : patch_row(row * kCols + col); }

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

  // Words, one for each of kCells cells side by side: the one to the left of two neighbouring outputs, the first's own,
  // the second's own and, with four, the one to the right.
  template <int kCells>
  using Cells = uint32_t[kChannels][kCells];
  static constexpr int kNprCells = 3, kHaarCells = 4;

  static constexpr uint32_t k1024 = 0x64646464;

  // Of a row of pixels, the two of each cell as float16 numbers 1024 + p. `offset`, a multiple of 4, is that of the
  // first output's own cell.
  template <bool interleaved, int kCells>
  __device__ void load_pixels(Cells<kCells>& pixels, int pixel_row, int offset) const {
    if constexpr (interleaved) {
      constexpr int kLeft = kChannels * kCell,
                    kWords = (2 + kLeft * kCells + 3) / 4;  // 2 bytes, and those of the cells
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
        if constexpr (kCells == kHaarCells) pixels[channel][3] = permute_bytes(own[1], k1024, 0x4140);
      }
    }
  }

  // The differences of cells: (below, corner), and (0, right) if asked for.
  template <bool interleaved>
  __device__ void load_cells(Cells<kNprCells>& below_corner, Cells<kNprCells>* right, int row, int offset) const {
    Cells<kNprCells> top, bottom;
    load_pixels<interleaved>(top, 2 * row, offset);
    load_pixels<interleaved>(bottom, 2 * row + 1, offset);
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
      for (int i = 0; i < kNprCells; ++i) {
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

  // The diagonals of a row of cells, as pairs of neighbours.
  struct Diagonals {
    static constexpr int kPairs = kHaarCells / 2;
    uint32_t high[kChannels][kPairs], low[kChannels][kPairs];  // the latter for bfloat16 only
  };

  template <bool interleaved>
  __device__ void load_diagonals(Diagonals& diagonals, int row, int offset) const {
    Cells<kHaarCells> top, bottom;
    load_pixels<interleaved>(top, 2 * row, offset);
    load_pixels<interleaved>(bottom, 2 * row + 1, offset);
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
      for (int pair = 0; pair < Diagonals::kPairs; ++pair) {
        // Of both columns of a cell, the pixel below less that above; of these, the right less the left.
        uint32_t down[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          down[i] = subtract_halves(bottom[channel][2 * pair + i], top[channel][2 * pair + i]);
        }
        const uint32_t halves =
            subtract_halves(permute_bytes(down[0], down[1], 0x7632), permute_bytes(down[0], down[1], 0x5410));
        diagonals.high[channel][pair] = number(halves);
        if constexpr (kSplit) {
          const uint32_t rounded = diagonals.high[channel][pair];
          diagonals.low[channel][pair] =
              pack<T>(to_float(Half{uint16_t(halves)}) - to_float(T{uint16_t(rounded)}),
                      to_float(Half{uint16_t(halves >> 16)}) - to_float(T{uint16_t(rounded >> 16)}));
        }
      }
    }
  }

  static constexpr bool kSplit = std::is_same_v<T, BFloat>;

  // A thread walks down the outputs of two columns, and so forms the cells between them once.
  template <bool interleaved>
  __device__ void build_from(int col) {
    constexpr int kPixelBytes = interleaved ? kChannels : 1, kPairs = kCols / 2;
    const int start = (2 * col - 2) * kPixelBytes - first_byte(col, kPixelBytes);  // of the cell to the left
#pragma unroll 1
    for (int i = threadIdx.x; i < kPairs * (kRows / kRun); i += blockDim.x) {
      const int x = i % kPairs * 2, row = i / kPairs * kRun, offset = start + (x + 1) * kCell * kPixelBytes;
      if constexpr (Octets::kNpr) build_npr<interleaved>(row, x, offset);
      if constexpr (Octets::kHaar) build_haar<interleaved>(row, x, offset);
    }
  }

  template <bool interleaved>
  __device__ void build_npr(int row, int x, int offset) {
    Cells<kNprCells> upper, below_corner, right;
    load_cells<interleaved>(upper, nullptr, row, offset);
#pragma unroll
    for (int y = 0; y < kRun; ++y) {
      load_cells<interleaved>(below_corner, &right, row + y + 1, offset);
#pragma unroll
      for (int channel = 0; channel < kChannels; ++channel) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          patches[channel][place(row + y, x + k)] = {
              permute_bytes(upper[channel][k], upper[channel][k + 1], 0x5432),         // corner, below
              permute_bytes(upper[channel][k + 1], right[channel][k], 0x7632),         // corner, right
              permute_bytes(right[channel][k + 1], below_corner[channel][k], 0x7632),  // right, corner
              below_corner[channel][k + 1],                                            // below, corner
          };
        }
#pragma unroll
        for (int k = 0; k < kNprCells; ++k) upper[channel][k] = below_corner[channel][k];
      }
    }
  }

  template <bool interleaved>
  __device__ void build_haar(int row, int x, int offset) {
    Diagonals rows[3];  // above, beside and below the outputs
    load_diagonals<interleaved>(rows[0], row, offset);
    load_diagonals<interleaved>(rows[1], row + 1, offset);
    const uint32_t one = pack<T>(1.0f, 0.0f);
#pragma unroll
    for (int y = 0; y < kRun; ++y) {
      load_diagonals<interleaved>(rows[2], row + y + 2, offset);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int at = place(row + y, x + k);
        const auto& last = rows[2];
#pragma unroll
        for (int channel = 0; channel < kChannels; ++channel) {
          patches[Octets::kHaarOctet + channel][at] =
              eight_taps(rows[0].high[channel], rows[1].high[channel], rows[2].high[channel], k);
          if constexpr (kSplit) {
            patches[Octets::kOctets + channel][at] =
                eight_taps(rows[0].low[channel], rows[1].low[channel], rows[2].low[channel], k);
          }
        }
        const uint32_t both = k == 0 ? 0x5410 : 0x7632, before_one = k == 0 ? 0x5410 : 0x5432;
        uint4 ninth = {permute_bytes(last.high[0][1], last.high[1][1], both),
                       permute_bytes(last.high[2][1], one, before_one), 0, 0};
        if constexpr (kSplit) {
          ninth.z = permute_bytes(last.low[0][1], last.low[1][1], both);
          ninth.w = permute_bytes(last.low[2][1], 0, before_one);
        }
        patches[Octets::kOwnOctets][at] = ninth;
      }
      rows[0] = rows[1];
      rows[1] = rows[2];
    }
  }

  // The first eight of three rows of three cells, of four in pairs, from cell k = 0 or 1 on.
  using Pairs = uint32_t[Diagonals::kPairs];
  __device__ static uint4 eight_taps(const Pairs& a, const Pairs& b, const Pairs& c, int k) {
    if (k == 0) return {a[0], permute_bytes(a[1], b[0], 0x5410), permute_bytes(b[0], b[1], 0x5432), c[0]};
    return {permute_bytes(a[0], a[1], 0x5432), permute_bytes(a[1], b[0], 0x7632), b[1],
            permute_bytes(c[0], c[1], 0x5432)};
  }
};

// The words that build() writes are the taps of npr.h.
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

constexpr bool rows_of_three() {
  for (int tap = 0; tap < taps_of(Map::haar); ++tap) {
    if (!same(tap_source(Map::haar, tap), Difference::diagonal, tap / 3 - 1, tap % 3 - 1)) return false;
  }
  return true;
}
static_assert(rows_of_three());

}  // namespace npr::cuda
