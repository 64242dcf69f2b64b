// What follows the convolution in the stem: ReLU and max-pooling of what an MMA gives, in registers.
//
// An accumulator's rows g and g + 8 are the even and the odd column of one pooled output, so a thread has both, of
// eight channels. Maxima are taken of three rows of them, then of the two columns and of the odd column to the left,
// which another thread has and sends. For the backward pass, codes say where in its window a maximum was.
#pragma once

#include "cuda/packed.cuh"

namespace npr::cuda {

// What a thread holds of one row of the convolution, or of the maxima of three: 8 channels of a pooled output's even
// column and of its odd one. They are float32 or, kPacked, pairs of bfloat16 numbers after ReLU. Zero stands for what
// lies outside the image, since ReLU comes in any case.
template <bool kPacked>
struct Columns {
  using Element = std::conditional_t<kPacked, uint32_t, float>;
  static constexpr int kCount = kPacked ? kGroupTiles : 2 * kGroupTiles;

  Element even[kCount], odd[kCount];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) even[i] = odd[i] = 0;
  }
};

__device__ inline float largest_of(float a, float b, float c) { return max_or_nan(max_or_nan(a, b), c); }
__device__ inline uint32_t largest_of(uint32_t a, uint32_t b, uint32_t c) { return max_of_pairs(a, b, c); }

// ---- Maxima of three rows ---------------------------------------------------------------------------

// Replaces `middle` by the maxima of three rows.
template <bool kPacked>
__device__ void find_largest(Columns<kPacked>& middle, const Columns<kPacked>& above, const Columns<kPacked>& below) {
#pragma unroll
  for (int i = 0; i < Columns<kPacked>::kCount; ++i) {
    middle.even[i] = largest_of(above.even[i], middle.even[i], below.even[i]);
    middle.odd[i] = largest_of(above.odd[i], middle.odd[i], below.odd[i]);
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

__device__ inline void find_largest(Columns<false>& middle, Codes& codes, const Columns<false>& above,
                                    const Columns<false>& below) {
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

// Of equal maxima, the first in row-major order: the smallest code of three columns.
__device__ inline void find_codes(uint32_t (&first)[kGroupTiles], const Codes& codes,
                                  const uint32_t (&left_codes)[kGroupTiles], const float (&largest)[2 * kGroupTiles],
                                  const Columns<false>& own, const float (&left)[2 * kGroupTiles]) {
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
}

// Results in bfloat16.
__device__ inline void round(uint32_t (&words)[kGroupTiles], const uint32_t (&pairs)[kGroupTiles],
                             const uint32_t (&unscale)[kGroupTiles]) {
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) words[j] = multiply_pairs(pairs[j], unscale[j]);
}

__device__ inline void round(uint32_t (&words)[kGroupTiles], const float (&values)[2 * kGroupTiles],
                             const uint32_t (&unscale)[kGroupTiles]) {
#pragma unroll
  for (int j = 0; j < kGroupTiles; ++j) {
    words[j] = multiply_pairs(pack_rectified(values[2 * j], values[2 * j + 1]), unscale[j]);
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
  __device__ static void assign(float& to, uint32_t word) { to = __uint_as_float(word); }
  __device__ static void assign(uint32_t& to, uint32_t word) { to = word; }
};

}  // namespace npr::cuda
