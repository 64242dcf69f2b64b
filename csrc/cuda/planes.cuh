// Planes of bytes in shared memory, formed from the pixels of a row of cells by a warp.
//
// A lane has four cells: it reads their pixels, 8 bytes of a row at a time, and those of the cells to their left and
// right, and stores a word of each plane. So a warp forms what 128 outputs read of a row of cells. Of npr that takes,
// in channels_last, 8 loads, 33 permutations of bytes and 21 stores.
#pragma once

#include "cuda/streams.cuh"
#include "cuda/tiling.cuh"

namespace npr::cuda {

constexpr int kCellsOfLane = 4, kPixelsOfLane = kCell * kCellsOfLane;
constexpr int kPlaneCells = kCellsOfLane * kWarp;
// Eight planes that follow one another are in different banks, wherever 16 neighbouring bytes of them are read.
constexpr int kPlanePitch = kPlaneCells + 16;

// How a lane reads its pixels: 8 bytes at a time, of a channel or of all three; or the warp copies them first.
enum class Access { planar, interleaved, copied };

inline Access access_of(const Images& images) {
  const ImageSource source = image_source(images, 8);
  if (source.unit < 8 || images.cols() % kCellsOfLane != 0) return Access::copied;
  return source.interleaved ? Access::interleaved : Access::planar;
}

// Whether pixels can be copied four at a time, or one by one, at any strides.
inline bool copied_as_words(const Images& images) {
  const ImageSource source = image_source(images);
  return source.unit >= 4 && !source.interleaved && images.cols() % 2 == 0;
}

// floor((a + b) / 2) of four bytes each.
__device__ inline uint32_t average_bytes(uint32_t a, uint32_t b) { return (a & b) + (((a ^ b) & 0xfefefefeu) >> 1); }

constexpr uint32_t kZeroHigh = 0x7f7f7f7fu, kZeroLow = 0x03030303u;  // the parts of cells of zeros

// The two parts of the diagonals of four cells. With x the average of the pixels that are added, y that of those that
// are subtracted, and z that of x and 255 - y, the diagonal is 4 z - 510, but for what the averages cut off.
struct Diagonals {
  uint32_t high, low;

  __device__ static Diagonals of(uint32_t top_left, uint32_t top_right, uint32_t bottom_left, uint32_t bottom_right) {
    const uint32_t x = average_bytes(top_left, bottom_right), y = ~average_bytes(top_right, bottom_left);
    constexpr uint32_t kBits = 0x01010101u;
    const uint32_t added = (top_left ^ bottom_right) & kBits, kept = ~(top_right ^ bottom_left) & kBits;
    return {average_bytes(x, y), added + kept + ((x ^ y) & kBits) * 2};
  }
};

// Copied pixels of a row of cells: [row of pixels][channel], of which eight are before the strip's first one.
constexpr int kPixelsBefore = 8, kCopied = kPixelsOfLane * kWarp + 8, kPixelPitch = kPixelsBefore + 3 * 4 * kWarp;
using Copied = uint8_t[kCell][kChannels][kPixelPitch];

// The pixels of four cells that a lane holds, with as much of the cells to their left and right as is read.
template <int kResidual, Access access>
class LaneCells {
  using S = Streams<kResidual>;
  static constexpr bool kRight = Slots<kResidual>::kHaar;  // the cell to the right is read
  static constexpr bool kInterleaved = access == Access::interleaved;
  static constexpr int kLines = kInterleaved ? 1 : kChannels, kPixelBytes = kInterleaved ? kChannels : 1;
  static constexpr int kSide = kInterleaved ? 2 : 1, kOwn = kPixelsOfLane * kPixelBytes / 4;
  static constexpr int kWords = kSide + kOwn + (kRight ? kSide : 0);
  // Of each row of pixels and line of memory: [beside, to the left] [own] [beside, to the right].
  uint32_t words_[kCell][kLines][kWords];

 public:
  // Reads the pixels of a row of cells from `first` on, of which `left` exist to the left and `right` from the lane's
  // first one on; what does not exist is zero.
  __device__ void load(const Images& images, const uint8_t* first, int left, int right) {
#pragma unroll
    for (int y = 0; y < kCell; ++y) {
#pragma unroll
      for (int line = 0; line < kLines; ++line) {
        uint32_t (&words)[kWords] = words_[y][line];
#pragma unroll
        for (uint32_t& word : words) word = 0;
        const uint8_t* from = first + y * images.stride_h + line * images.stride_c;
        if (right > 0) {
#pragma unroll
          for (int i = 0; i < kOwn; i += 2) load_words<2>(words + kSide + i, from + 4 * i);
        }
        if (right > 0 && left > 0) load_words<kSide>(words, from - 4 * kSide);
        if (kRight && right > kPixelsOfLane) load_words<kSide>(words + kSide + kOwn, from + 4 * kOwn);
      }
    }
  }

  // Copies those pixels for all lanes of the warp: four at a time, which exist or not together, or one by one.
  template <class Unit>
  __device__ static void copy(Copied& to, const Images& images, const uint8_t* first, int left, int right) {
    constexpr int kPixels = sizeof(Unit), kFirst = 4;  // copies begin a word to the left of the strip
    const int own = kPixelsOfLane * lane_index(), x = kPixels * lane_index() - kFirst;
    const int exist = left + right;  // of the image's row
    first += (x - own) * images.stride_w, left += x - own;
#pragma unroll 1
    for (int line = 0; line < kCell * kChannels; ++line) {
      const int y = line / kChannels, channel = line % kChannels;
      const uint8_t* from = first + y * images.stride_h + channel * images.stride_c;
#pragma unroll
      for (int i = 0; i < kCopied; i += kPixels * kWarp) {
        const bool exists = unsigned(left + i) < unsigned(exist);
        *reinterpret_cast<Unit*>(to[y][channel] + kPixelsBefore + x + i) =
            exists ? *reinterpret_cast<const Unit*>(from) : Unit(0);
        from += kPixels * kWarp * images.stride_w;
      }
    }
  }

  // Takes the lane's pixels from the copies.
  __device__ void load(const Copied& from) {
#pragma unroll
    for (int y = 0; y < kCell; ++y) {
#pragma unroll
      for (int line = 0; line < kLines; ++line) {
        const uint8_t* own = from[y][line] + kPixelsBefore + kPixelsOfLane * lane_index();
        load_words<1>(words_[y][line], own - 4);
        load_words<2>(words_[y][line] + 1, own);
        if (kRight) load_words<1>(words_[y][line] + 3, own + kPixelsOfLane);
      }
    }
  }

  // Stores the lane's four bytes of each plane; `right` pixels exist from its first one on. The first output beyond the
  // image has the image's last cell to its left, and is to have zeros around it as all others out there.
  __device__ void store(uint8_t* planes, int right) const {
    const uint32_t in_image = access == Access::copied && right < kPixelsOfLane ? (1u << (max(right, 0) * 4)) - 1 : ~0u;
    const auto keep = [&](uint32_t word, uint32_t zero) {
      return access == Access::copied ? (word & in_image) | (zero & ~in_image) : word;
    };
    auto* to = reinterpret_cast<uint32_t*>(planes) + lane_index();
#pragma unroll
    for (int channel = 0; channel < kChannels; ++channel) {
      uint32_t own[kCellPixels];
#pragma unroll
      for (int pixel = 0; pixel < kCellPixels; ++pixel) own[pixel] = pixels(pixel, channel);
      Diagonals diagonals{}, beside{};  // the latter: to the left, to the right
      if constexpr (Slots<kResidual>::kHaar) {
        diagonals = Diagonals::of(own[0], own[1], own[2], own[3]);
        uint32_t both[kCellPixels];
#pragma unroll
        for (int pixel = 0; pixel < kCellPixels; ++pixel) {
          const auto [before, i] = left_of(pixel, channel);
          const auto [after, j] = right_of(pixel, channel);
          both[pixel] = permute_bytes(before, after, i | (4 + j) << 4);
        }
        beside = Diagonals::of(both[0], both[1], both[2], both[3]);
      }
      unrolled<S::kOfChannel>([&](auto i) {
        constexpr Plane kPlane = kPlanes<Slots<kResidual>::kNpr, Slots<kResidual>::kHaar>[i.value];
        uint32_t word;
        if constexpr (kPlane.part < kCellPixels) {
          const auto [before, byte] = left_of(kPlane.part, channel);
          word = kPlane.col == 0 ? own[kPlane.part] : keep(permute_bytes(before, own[kPlane.part], 0x6540 | byte), 0);
        } else {
          const uint32_t centre = kPlane.part == kHigh ? diagonals.high : diagonals.low;
          const uint32_t sides = kPlane.part == kHigh ? beside.high : beside.low;
          word = kPlane.col == 0 ? centre
                 : kPlane.col < 0
                     ? keep(permute_bytes(sides, centre, 0x6540), kPlane.part == kHigh ? kZeroHigh : kZeroLow)
                     : permute_bytes(centre, sides, 0x5321);
        }
        to[(kChannels * i.value + channel) * (kPlanePitch / 4)] = word;
      });
    }
  }

 private:
  template <int kCount>
  __device__ static void load_words(uint32_t* words, const uint8_t* from) {
    if constexpr (kCount == 1) {
      words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[0] = two.x, words[1] = two.y;
    }
  }

  // A pixel of the lane's four cells.
  __device__ uint32_t pixels(int pixel, int channel) const {
    const uint32_t* own = words_[pixel / kCell][kInterleaved ? 0 : channel] + kSide;
    const int x = pixel % kCell;
    if constexpr (kInterleaved) {
      // Of two cells, three words, the bytes x 3 + channel are those of a pair and the pair of the next such number.
      const int number = kChannels * x + channel, pair = number / 2;
      const auto two_cells = [&](const uint32_t* three) {
        return pair == 0   ? permute_bytes(three[0], three[1], 0x7160)
               : pair == 1 ? permute_bytes(three[0], three[2], 0x5342)
                           : permute_bytes(three[1], three[2], 0x7160);
      };
      return permute_bytes(two_cells(own), two_cells(own + 3), number % 2 ? 0x7632 : 0x5410);
    } else {
      return permute_bytes(own[0], own[1], x ? 0x7531 : 0x6420);
    }
  }

  // A byte of a word.
  struct Byte {
    uint32_t word;
    uint32_t number;
  };
  // A pixel of the cell to the left, or to the right, of the lane's four.
  __device__ Byte left_of(int pixel, int channel) const {
    const int number = kSide * 4 - (kCell - pixel % kCell) * kPixelBytes + (kInterleaved ? channel : 0);
    return {words_[pixel / kCell][kInterleaved ? 0 : channel][number / 4], uint32_t(number % 4)};
  }
  __device__ Byte right_of(int pixel, int channel) const {
    const int number = pixel % kCell * kPixelBytes + (kInterleaved ? channel : 0);
    return {words_[pixel / kCell][kInterleaved ? 0 : channel][kSide + kOwn + number / 4], uint32_t(number % 4)};
  }
};

}  // namespace npr::cuda
