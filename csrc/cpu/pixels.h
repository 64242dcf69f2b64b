// Bytes of an image in an order that vectors can work on.
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

// Three interleaved channels, as channels_last images have them, each into a row of its own.
inline void deinterleave(const uint8_t* __restrict from, uint8_t* const* to, int64_t pixels) {
  int64_t x = 0;
#if defined(NPR_SHUFFLE) && (defined(__SSSE3__) || defined(__aarch64__))
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  typedef uint8_t UnalignedBytes __attribute__((vector_size(16), aligned(1), may_alias));
  for (; x + 16 <= pixels; x += 16) {
    const UnalignedBytes* source = reinterpret_cast<const UnalignedBytes*>(from + 3 * x);
    const Bytes a = source[0], b = source[1], c = source[2];
    const Bytes r = __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
    const Bytes g = __builtin_shufflevector(a, b, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0);
    const Bytes u = __builtin_shufflevector(a, b, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0);
    *reinterpret_cast<UnalignedBytes*>(to[0] + x) =
        __builtin_shufflevector(r, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
    *reinterpret_cast<UnalignedBytes*>(to[1] + x) =
        __builtin_shufflevector(g, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30);
    *reinterpret_cast<UnalignedBytes*>(to[2] + x) =
        __builtin_shufflevector(u, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31);
  }
#endif
  for (; x < pixels; ++x) {
    for (int c = 0; c < 3; ++c) to[c][x] = from[3 * x + c];
  }
}

// A row of pixels of an image of three channels, from the one at `from` on, as three rows of bytes: where they are, if
// they are side by side there, else copied to `copies`, `pixels` bytes each and one after the other.
struct ChannelRows {
  ChannelRows(const Images& images, const uint8_t* from, int64_t pixels, uint8_t* copies) {
    const int64_t step = images.stride_w, between = images.stride_c;
    if (step == 1) {
      for (int c = 0; c < 3; ++c) of[c] = from + c * between;
      return;
    }
    uint8_t* const to[3] = {copies, copies + pixels, copies + 2 * pixels};
    if (step == 3 && between == 1) {
      deinterleave(from, to, pixels);
    } else {
      for (int c = 0; c < 3; ++c) {
        for (int64_t x = 0; x < pixels; ++x) to[c][x] = from[c * between + x * step];
      }
    }
    for (int c = 0; c < 3; ++c) of[c] = to[c];
  }

  const uint8_t* of[3];
};

// Blocks of 8 bytes, each byte with those of its place in other blocks: 8 blocks to 8 rows of 8.
inline void transpose_blocks(const uint8_t* __restrict from, uint8_t* __restrict to) {
#if defined(NPR_SHUFFLE)
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  Bytes x[4], y[4];
  std::memcpy(x, from, sizeof x);
  // Interleaving the two halves of the 64 bytes rotates the six bits of a byte's index by one; three times exchanges
  // those of the block and of the place in it.
#pragma GCC unroll 3
  for (int round = 0; round < 3; ++round) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      y[2 * i] = __builtin_shufflevector(x[i], x[i + 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      y[2 * i + 1] =
          __builtin_shufflevector(x[i], x[i + 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(x, y, sizeof x);
  }
  std::memcpy(to, x, sizeof x);
#else
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) to[j * 8 + i] = from[i * 8 + j];
  }
#endif
}

}  // namespace
}  // namespace npr::cpu
