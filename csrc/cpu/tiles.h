// Register tiles: the inner loops of every matrix product here. Each keeps up to kTileRows x
// kTileVectors vector accumulators in registers; what differs is where the reduction runs.
//
//     multiply            reduction outside: broadcast a[k][i] times vectors b[k][j..]
//     accumulate_columns  reduction along x: broadcast a[i][x] times vectors b[x][j..]
//     accumulate_lanes    reduction along x and across lanes: vectors a[i][x..] times b[j][x..]
#pragma once

#include "cpu/simd.h"

namespace npr::cpu {
namespace {

// tile[i][j] = start(i, j) + sum_k a[k][row + i] * b[k][column..] for M rows and N vectors of columns.
template <int M, int N, class T, class Start>
inline void multiply(const T* const* a, int64_t row, const T* const* b, int64_t column, int64_t taps, Start start,
                     Vec<T> (&tile)[M][N]) {
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) tile[i][j] = start(i, j);
  }
  for (int64_t k = 0; k < taps; ++k) {
    const T* ak = a[k] + row;
    const T* bk = b[k] + column;
    Vec<T> bv[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) bv[j] = load(bk + j * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec<T> av = broadcast(ak[i]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) tile[i][j] += av * bv[j];
    }
  }
}

// Stores a tile's rows, `stride` apart.
template <int M, int N, class T>
inline void store_tile(T* to, int64_t stride, const Vec<T> (&tile)[M][N], bool past_caches) {
  if (past_caches) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) stream(to + i * stride + j * kLanes<T>, tile[i][j]);
    }
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) store(to + i * stride + j * kLanes<T>, tile[i][j]);
    }
  }
}

// One output row as the product of a [K][rows] and b [K][columns], out[row * stride + column].
// The bias belongs to the rows or, if it does not, to the columns.
template <class Element, bool BiasOfRows, class T = Compute<Element>>
inline void multiply_row(const T* const* a, int64_t rows, const T* const* b, int64_t columns, int64_t taps,
                         const T* bias, Element* out, int64_t stride, bool past_caches) {
  constexpr int64_t kWide = kTileVectors * kLanes<T>;
  // Only whole lines, each written at once: parts of one that come apart would be written to memory apart.
  past_caches = past_caches && kWide * sizeof(T) % kCacheLine == 0 && std::is_same_v<Element, T> &&
                (uintptr_t(out) | stride * sizeof(Element) | columns * sizeof(Element)) % kCacheLine == 0;
  for (int64_t column = 0; column < columns; column += kWide) {
    const int64_t width = columns - column < kWide ? columns - column : kWide;
    const bool direct = std::is_same_v<Element, T> && width % kLanes<T> == 0;
    with_constant<kTileVectors>(int((width + kLanes<T> - 1) / kLanes<T>), [&](auto vectors) {
      constexpr int N = decltype(vectors)::value;
      for (int64_t row = 0; row < rows; row += kTileRows) {
        const int height = int(rows - row < kTileRows ? rows - row : kTileRows);
        alignas(64) T buffer[kTileRows * kWide];
        T* to = direct ? reinterpret_cast<T*>(out + row * stride + column) : buffer;
        const int64_t to_stride = direct ? stride : kWide;
        with_constant<kTileRows>(height, [&](auto tile_rows) {
          constexpr int M = decltype(tile_rows)::value;
          const auto start = [&](int i, int j) {
            return BiasOfRows ? broadcast(bias[row + i]) : load(bias + column + j * kLanes<T>);
          };
          Vec<T> tile[M][N];
          multiply(a, row, b, column, taps, start, tile);
          store_tile(to, to_stride, tile, past_caches);
        });
        if (!direct) {
          for (int i = 0; i < height; ++i) convert(buffer + i * kWide, out + (row + i) * stride + column, width);
        }
      }
    });
  }
}

// sum[i][j] += sum_x a[i][x] * b[x][j] for M rows and N vectors of columns; sum is [..][stride].
// The tile starts from zero, so that the terms of a row of outputs are added up before they meet the
// larger sum of the block: the rounding error grows with the length of a row, not of the block.
template <int M, int N, class T>
inline void accumulate_columns(const T* const* a, const T* b, int64_t b_stride, int64_t length, T* sum,
                               int64_t stride) {
  Vec<T> tile[M][N] = {};
  for (int64_t x = 0; x < length; ++x) {
    Vec<T> bv[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) bv[j] = load(b + x * b_stride + j * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec<T> av = broadcast(a[i][x]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) tile[i][j] += av * bv[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      T* to = sum + i * stride + j * kLanes<T>;
      store(to, load(to) + tile[i][j]);
    }
  }
}

// Vector accumulators tile[i][j] += a[i][x] * b[j][x], vectors along x; length is in vectors.
template <int M, int N, class T>
inline void accumulate_lanes(const T* const* a, const T* const* b, int64_t length, Vec<T> (&tile)[M][N]) {
  for (int64_t x = 0; x < length * kLanes<T>; x += kLanes<T>) {
    Vec<T> bv[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) bv[j] = load(b[j] + x);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const Vec<T> av = load(a[i] + x);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) tile[i][j] += av * bv[j];
    }
  }
}

template <class T>
inline double sum_lanes(Vec<T> value) {
  double sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += value[lane];
  return sum;
}

}  // namespace
}  // namespace npr::cpu
