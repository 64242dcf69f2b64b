// Products of 8-bit positions and panels of 8-bit weights, exact in int32.
//
// The unit is a quad: four channels of a position, or of an output's weights, that lie in one 32-bit lane. A panel is
// [quads][kPanel][4], as an instruction for such dot products reads it, where there is one (AVX-512 VNNI). AVX2 and
// AVX-512 without it multiply bytes and add products in 16 bits, which overflow beyond 32767. Of two quads, four
// products come together in such a sum; the weights among them that have one sign add up to kLargestSum at most, and
// 255 * 128 is 32640. Pairs of such sums are then added in 32 bits. Elsewhere the bytes are widened to 16 bits in
// place, even and odd ones apart, and multiplied in pairs. Sums of integers are the same in any order, so every path
// gives the same bits.
//
// For 64 multiply-adds AVX2 takes 5 instructions and a load, 3 of them in the two pipes that multiply; float32 takes 8
// there.
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

constexpr int64_t kPanel = QuantisedBottleneck::kPanel, kQuad = QuantisedBottleneck::kQuad;
constexpr int kPanelVectors = 2;  // of a register tile
constexpr int kLanes32 = kLanes<int32_t>;
constexpr int64_t kTileOutputs = kPanelVectors * kLanes32;

// Whether the products of two quads are added before they are widened.
#if (defined(__AVX2__) || defined(__AVX512BW__)) && !defined(__AVX512VNNI__)
#define NPR_QUADS_IN_PAIRS 1
#else
#define NPR_QUADS_IN_PAIRS 0
#endif

// Positions of a register tile: the accumulators, a tile's weights and one position's quad fill the registers.
#if defined(__AVX512VNNI__)
constexpr int kGroup = 14;
#elif defined(__AVX512F__) || defined(__aarch64__)
constexpr int kGroup = 12;
#elif defined(__AVX2__)
constexpr int kGroup = 6;
#else
constexpr int kGroup = 4;
#endif

using Integers = Vec<int32_t>;
using Floats = Vec<float>;

// Bytes that become a vector of 32-bit lanes.
typedef uint8_t Bytes __attribute__((vector_size(NPR_VECTOR_BYTES / 4)));

typedef int16_t Halves __attribute__((vector_size(NPR_VECTOR_BYTES)));

// A vector of weights as dot() wants it, and a position's quad in every lane.
#if defined(__AVX512VNNI__) || NPR_QUADS_IN_PAIRS
struct Weights {
  Integers bytes;
};
struct Quads {
  Integers bytes;
};
inline Weights weights_of(Integers bytes) { return {bytes}; }
inline Quads quads_of(Integers bytes) { return {bytes}; }
#endif

#if defined(__AVX512VNNI__)
inline Integers dot(Integers sum, Quads x, Weights w) {
  return (Integers)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x.bytes, (__m512i)w.bytes);
}
#elif NPR_QUADS_IN_PAIRS
// Sums of two products each, in 16 bits; and pairs of these, in 32.
#if defined(__AVX512BW__)
inline Halves products(Quads x, Weights w) { return (Halves)_mm512_maddubs_epi16((__m512i)x.bytes, (__m512i)w.bytes); }
inline Integers widened(Halves sums) { return (Integers)_mm512_madd_epi16((__m512i)sums, _mm512_set1_epi16(1)); }
#else
inline Halves products(Quads x, Weights w) { return (Halves)_mm256_maddubs_epi16((__m256i)x.bytes, (__m256i)w.bytes); }
inline Integers widened(Halves sums) { return (Integers)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1)); }
#endif
inline Integers dot(Integers sum, Quads x, Weights w) { return sum + widened(products(x, w)); }
inline Integers dot(Integers sum, Quads x, Weights w, Quads next_x, Weights next_w) {
  return sum + widened(products(x, w) + products(next_x, next_w));
}
#else
typedef uint16_t UnsignedHalves __attribute__((vector_size(NPR_VECTOR_BYTES)));
struct Weights {
  Halves even, odd;
};
using Quads = Weights;
inline Weights weights_of(Integers bytes) { return {(Halves)((UnsignedHalves)bytes << 8) >> 8, (Halves)bytes >> 8}; }
inline Quads quads_of(Integers bytes) {
  return {(Halves)((UnsignedHalves)bytes & 0xff), (Halves)((UnsignedHalves)bytes >> 8)};
}
// Each lane's two products, added.
inline Integers pairs(Halves a, Halves b) {
#if defined(__SSE2__)
  return (Integers)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const Integers x = (Integers)a, y = (Integers)b;
  return ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}
inline Integers dot(Integers sum, Quads x, Weights w) { return sum + pairs(x.even, w.even) + pairs(x.odd, w.odd); }
#endif

struct QuadOperand {
  const uint8_t* at;     // the first position's channels
  int64_t stride;        // between positions
  const int8_t* weight;  // of the first panel, [quads][kPanel][4]
  int64_t panel;         // between panels
  int64_t quads;
};

template <int P>
using QuadTile = Integers[P][kPanelVectors];

inline Weights weights_at(const int8_t* weight, int j) {
  return weights_of(load(reinterpret_cast<const int32_t*>(weight) + j * kLanes32));
}

inline Quads quads_at(const uint8_t* at) {
  int32_t quad;
  std::memcpy(&quad, at, kQuad);
  return quads_of(broadcast(quad));
}

// tile[i][j] += sum over quads k of at[i * stride + k] . weight[k][j]
template <int P>
inline void accumulate(const uint8_t* at, int64_t stride, const int8_t* weight, int64_t quads, QuadTile<P>& tile) {
  int64_t k = 0;
#if NPR_QUADS_IN_PAIRS
  for (; k + 2 <= quads; k += 2, at += 2 * kQuad, weight += 2 * kPanel * kQuad) {
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      const Quads x = quads_at(at + i * stride), next = quads_at(at + i * stride + kQuad);
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) {
        tile[i][j] = dot(tile[i][j], x, weights_at(weight, j), next, weights_at(weight + kPanel * kQuad, j));
      }
    }
  }
#endif
  for (; k < quads; ++k, at += kQuad, weight += kPanel * kQuad) {
    Weights w[kPanelVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) w[j] = weights_at(weight, j);
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      const Quads x = quads_at(at + i * stride);
#pragma GCC unroll 2
      for (int j = 0; j < kPanelVectors; ++j) tile[i][j] = dot(tile[i][j], x, w[j]);
    }
  }
}

// The sums over operands of one group of positions and one tile of outputs.
template <int P>
inline void multiply_tile(int64_t first, int64_t output, const QuadOperand* operands, int count, QuadTile<P>& tile) {
#pragma GCC unroll 16
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kPanelVectors; ++j) tile[i][j] = Integers{};
  }
  for (int o = 0; o < count; ++o) {
    const QuadOperand& from = operands[o];
    const int8_t* weight = from.weight + output / kPanel * from.panel + output % kPanel * kQuad;
    accumulate<P>(from.at + first * from.stride, from.stride, weight, from.quads, tile);
  }
}

// Calls f(size, first, output) for each group of positions, whose size is a compile-time constant, and each tile of
// outputs. A group meets all panels before the next one: it is read once, and what it gives is written in one place.
template <class F>
inline void for_tiles(int64_t positions, int64_t outputs, F f) {
  const int64_t groups = (positions + kGroup - 1) / kGroup;
  for (int64_t group = 0, first = 0; group < groups; ++group) {
    const int64_t last = (group + 1) * positions / groups;
    with_constant<kGroup>(int(last - first), [&](auto size) {
      for (int64_t output = 0; output < outputs; output += kTileOutputs) f(size, first, output);
    });
    first = last;
  }
}

inline Floats to_floats(Integers value) { return __builtin_convertvector(value, Floats); }

// Between 32-bit lanes and bytes by the instructions for it: compilers take conversions of vectors apart.
inline Floats to_floats(const uint8_t* bytes) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
#elif defined(__SSE2__)
  int32_t value;
  std::memcpy(&value, bytes, sizeof value);
  const __m128i zero = _mm_setzero_si128(), words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(value), zero);
  return _mm_cvtepi32_ps(_mm_unpacklo_epi16(words, zero));
#else
  Bytes value;
  std::memcpy(&value, bytes, sizeof value);
  return to_floats(__builtin_convertvector(value, Integers));
#endif
}

// To nearest, ties to even, and 0 or 255 beyond; NaN becomes 0.
inline void store_rounded(uint8_t* to, Floats value) {
  const Floats positive = maximum(value, Floats{});
#if defined(__AVX512F__)
  // Beyond int32, what is converted has its highest bit alone: a large number without sign, so 255.
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(positive)));
#else
  const Floats bounded = minimum(positive, broadcast(255.f));
#if defined(__AVX2__)
  const __m256i whole = _mm256_cvtps_epi32(bounded);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
#elif defined(__SSE2__)
  const __m128i whole = _mm_cvtps_epi32(bounded), words = _mm_packs_epi32(whole, whole);
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  std::memcpy(to, &bytes, sizeof bytes);
#else
  // A float between 2^23 and 2^24 has no fraction: adding 1.5 * 2^23 rounds, and leaves the integer in the low bits.
  const Bytes bytes = __builtin_convertvector((Integers)(bounded + broadcast(0x1.8p23f)) & 255, Bytes);
  std::memcpy(to, &bytes, sizeof bytes);
#endif
#endif
}

}  // namespace
}  // namespace npr::cpu
