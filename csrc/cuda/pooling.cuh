// What follows the convolution in the stem: ReLU and max-pooling of what an MMA gives, in registers.
//
// An accumulator's rows g and g + 8 are the even and the odd column of one pooled output, so a thread has both, of
// eight channels. Maxima are taken of three rows of them, then of the two columns and of the odd column to the left,
// which another thread has and sends. For the backward pass, codes say where in its window a maximum was. They are
// found with the maximum where results have 16 bits, and by comparing with it where they are float32.
#pragma once

#include "cuda/packed.cuh"

namespace npr::cuda {

// ---- What is compared -------------------------------------------------------------------------------

// Two bfloat16 numbers after ReLU.
using Pair = uint32_t;

// A sum and its place in one integer, so that a maximum finds both at once: the bits of the float32 sum, the last four
// of them replaced by 15 - place. Places are those of two windows, one below the other, which share the third of five
// rows: 3 row + column, in the second window 6 more than the code. The largest key is the largest sum's, and of equal
// sums the first one's. Sums that differ by less than 2^-19 of themselves may count as equal.
//
// Sums are finite (weights.cuh). Below zero their keys are, too, in an order of their own, and the keys of zero are
// below 16: ReLU makes one of them all.
using Key = int32_t;

constexpr Key kPlace = 15;                  // the bits of the place
constexpr int kWindow = 2 * kKernel;        // from a window's places to those of the next one
constexpr Key kToTheLeft = 2;               // from an odd column's keys to those it has in the window to its right
constexpr Key kToTheNextTwo = 2 * kWindow;  // from the fifth row's keys to those it has in two windows more
// ReLU's zero in a window: its place is that of kClosed.
__device__ constexpr Key zero_of(int window) { return 16 + kPlace - (kClosed + kWindow * window); }
static_assert(zero_of(1) == 16, "more than any key of zero");

__device__ inline Key key_of(float sum, int row, int col) {
  return Key(merge_bits(__float_as_uint(sum), ~uint32_t(kPlace), kPlace - (kKernel * row + col)));
}

// What a key holds of a sum above zero, off by less than 2^-19 of it: as the results have 16 bits, the place may stay.
__device__ inline float value_of(Key key) { return __uint_as_float(uint32_t(key)); }
__device__ inline float value_of(float value) { return value; }

// What a thread holds of one row of the convolution, or of the maxima of three: 8 channels of a pooled output's even
// column and of its odd one, as float32, keys or pairs. Zero stands for what lies outside the image, since ReLU comes
// in any case.
template <class Of>
struct Columns {
  using Element = Of;
  static constexpr int kCount = std::is_same_v<Of, Pair> ? kGroupTiles : 2 * kGroupTiles;

  Element even[kCount], odd[kCount];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) even[i] = odd[i] = 0;
  }
};

__device__ inline float largest_of(float a, float b, float c) { return max_or_nan(max_or_nan(a, b), c); }
__device__ inline Pair largest_of(Pair a, Pair b, Pair c) { return max_of_pairs(a, b, c); }
__device__ inline Key largest_of(Key a, Key b, Key c) { return max_of_three(a, b, c); }

// ---- Maxima of three rows ---------------------------------------------------------------------------

// Replaces `middle` by the maxima of three rows of a window.
template <class Element>
__device__ void find_largest(Columns<Element>& middle, const Columns<Element>& above, const Columns<Element>& below,
                             int window) {
  // The first of two windows has the fifth row of the two before it above.
  const auto moved = [&](Element element) {
    if constexpr (std::is_same_v<Element, Key>) {
      return window == 0 ? add_by_multiplication(element, kToTheNextTwo) : element;
    } else {
      return element;
    }
  };
#pragma unroll
  for (int i = 0; i < Columns<Element>::kCount; ++i) {
    middle.even[i] = largest_of(moved(above.even[i]), middle.even[i], below.even[i]);
    middle.odd[i] = largest_of(moved(above.odd[i]), middle.odd[i], below.odd[i]);
  }
}

// Which rows maxima are from, as 16-bit numbers, two channels to a word: 1, 4 or 7, as codes are for the even column.
struct Codes {
  uint32_t even[kGroupTiles], odd[kGroupTiles];
};

NPR_HOST_DEVICE constexpr uint32_t pair_of(uint32_t number) { return number | number << 16; }

// Of equal maxima, the first row's counts, as in PyTorch.
__device__ inline void find_largest(float& middle, float above, float below, uint32_t& code, int half) {
  if (middle > above) code ^= (1 ^ 4) << (16 * half);
  middle = max_or_nan(above, middle);
  if (below > middle) code |= 7 << (16 * half);
  middle = max_or_nan(middle, below);
}

__device__ inline void find_largest(Columns<float>& middle, Codes& codes, const Columns<float>& above,
                                    const Columns<float>& below) {
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) {
    codes.even[j] = codes.odd[j] = pair_of(1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * j + half;
      find_largest(middle.even[i], above.even[i], below.even[i], codes.even[j], half);
      find_largest(middle.odd[i], above.odd[i], below.odd[i], codes.odd[j], half);
    }
  }
}

// ---- Maxima of three columns -------------------------------------------------------------------------

// Of a window, from its left column and its own two.
template <class Element, int kCount>
__device__ void find_largest(Element (&largest)[kCount], const Element (&left)[kCount], const Columns<Element>& own,
                             int window) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<Element, Key>) {
      largest[i] = largest_of(max(left[i] + kToTheLeft, own.even[i]), own.odd[i], zero_of(window));
    } else {
      largest[i] = largest_of(left[i], own.even[i], own.odd[i]);
    }
  }
}

// The codes of a window's largest keys, in bytes.
__device__ inline void find_codes(uint32_t (&codes)[1][2], const Key (&keys)[8], int window) {
  constexpr uint32_t kBytes = 0x01010101;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Key* four = keys + 4 * i;
    const uint32_t two = permute_bytes(four[0], four[1], 0x0040), others = permute_bytes(four[2], four[3], 0x0040);
    codes[0][i] = (kPlace - kWindow * window) * kBytes - (permute_bytes(two, others, 0x5410) & kPlace * kBytes);
  }
}

// Of equal maxima, the first in row-major order: the smallest code of three columns.
__device__ inline void find_codes(uint32_t (&bytes)[2][1], const Codes& codes,
                                  const uint32_t (&left_codes)[kGroupTiles], const float (&largest)[2 * kGroupTiles],
                                  const Columns<float>& own, const float (&left)[2 * kGroupTiles]) {
  uint32_t first[kGroupTiles];
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) {
    uint32_t at_left = left_codes[j] - pair_of(1), at_even = codes.even[j], at_odd = codes.odd[j] + pair_of(1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * j + half;
      const uint32_t none = 0xff << (16 * half);
      const bool open = largest[i] > 0;
      if (!open || left[i] != largest[i]) at_left |= none;
      if (!open || own.even[i] != largest[i]) at_even |= none;
      if (!open || own.odd[i] != largest[i]) at_odd |= none;
    }
    first[j] = min_of_pairs(min_of_pairs(at_left, at_even, at_odd), pair_of(kClosed), pair_of(kClosed));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) bytes[i][0] = permute_bytes(first[2 * i], first[2 * i + 1], 0x6420);
}

// Results in bfloat16.
__device__ inline void round(uint32_t (&words)[kGroupTiles], const uint32_t (&pairs)[kGroupTiles],
                             const uint32_t (&unscale)[kGroupTiles]) {
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) words[j] = multiply_pairs(pairs[j], unscale[j]);
}

template <class Element>
__device__ void round(uint32_t (&words)[kGroupTiles], const Element (&values)[2 * kGroupTiles],
                      const uint32_t (&unscale)[kGroupTiles]) {
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) {
    words[j] = multiply_pairs(pack_rectified(value_of(values[2 * j]), value_of(values[2 * j + 1])), unscale[j]);
  }
}

// ---- The column to the left --------------------------------------------------------------------------

// What is sent by way of shared memory: words that each thread receives from the thread four before it, in this warp or
// the one to the left: what those hold of the odd column to the left. The first four threads receive zeros.
template <int kVectors, int kThreads>
struct Exchange {
  uint4 words[2][kVectors][kThreads + 4];  // two sets, so that one barrier will do between writing and reading

  __device__ void clear() {
    if (threadIdx.x >= 4) return;
#pragma unroll
    for (int i = 0; i < 2 * kVectors; ++i) words[i / kVectors][i % kVectors][threadIdx.x] = {};
  }

  template <class Word, int kCount>
  __device__ void put(int set, int vector, const Word (&from)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      words[set][vector + i / 4][threadIdx.x + 4] = {as_word(from[i]), as_word(from[i + 1]), as_word(from[i + 2]),
                                                     as_word(from[i + 3])};
    }
  }

  template <class Word, int kCount>
  __device__ void get(int set, int vector, Word (&to)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint4 four = words[set][vector + i / 4][threadIdx.x];
      assign(to[i], four.x), assign(to[i + 1], four.y), assign(to[i + 2], four.z), assign(to[i + 3], four.w);
    }
  }

  __device__ static uint32_t as_word(float value) { return __float_as_uint(value); }
  __device__ static uint32_t as_word(uint32_t value) { return value; }
  __device__ static uint32_t as_word(Key value) { return uint32_t(value); }
  __device__ static void assign(float& to, uint32_t word) { to = __uint_as_float(word); }
  __device__ static void assign(uint32_t& to, uint32_t word) { to = word; }
  __device__ static void assign(Key& to, uint32_t word) { to = Key(word); }
};

}  // namespace npr::cuda
