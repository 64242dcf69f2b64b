// Fused NPR + convolution, forward: out[n, o, oy, ox] = bias[o] + sum_k weight[k][o] * tap_k[oy][ox].
//
// An implicit matrix product with K = 8 C = 24: an output row is the product of its taps [K][cols] and
// the weights [K][O], both with the reduction dimension outside. A register tile multiplies a few
// broadcast elements of one with a few vectors of the other: channels_last output takes its vectors
// from the weights, NCHW output from the taps, and both store whole vectors straight from registers.
//
// Cost per output: K multiply-adds. Per row of 3 channels: 2 cols bytes read per image row and
// O cols elements written; the taps, 9 planes of cols, stay in the first-level cache.
#include "cpu/differences.h"

namespace npr::cpu::NPR_ISA {
namespace {

// tile[i][j] = start + sum_k a[k][row + i] * b[k][column + j], for M rows and N vectors of columns.
template <int M, int N, class T, class Start>
inline void multiply(const T* const* a, int64_t row, const T* const* b, int64_t column, int64_t taps, Start start,
                     T* tile, int64_t stride) {
  Vec<T> sum[M][N];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) sum[i][j] = start(i, j);
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
      for (int j = 0; j < N; ++j) sum[i][j] += av * bv[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) store(tile + i * stride + j * kLanes<T>, sum[i][j]);
  }
}

// One output row as the product of a [K][rows] and b [K][columns], out[row * stride + column].
// The bias belongs to the rows or, if it does not, to the columns.
template <class Element, bool BiasOfRows, class T = Compute<Element>>
inline void multiply_row(const T* const* a, int64_t rows, const T* const* b, int64_t columns, int64_t taps,
                         const T* bias, Element* out, int64_t stride) {
  constexpr int64_t kWide = kTileVectors * kLanes<T>;
  for (int64_t column = 0; column < columns; column += kWide) {
    const int64_t width = columns - column < kWide ? columns - column : kWide;
    const bool direct = std::is_same_v<Element, T> && width % kLanes<T> == 0;
    with_constant<kTileVectors>(int((width + kLanes<T> - 1) / kLanes<T>), [&](auto vectors) {
      constexpr int N = decltype(vectors)::value;
      for (int64_t row = 0; row < rows; row += kTileRows) {
        const int height = int(rows - row < kTileRows ? rows - row : kTileRows);
        alignas(64) T buffer[kTileRows * kWide];
        T* tile = direct ? reinterpret_cast<T*>(out + row * stride + column) : buffer;
        const int64_t tile_stride = direct ? stride : kWide;
        with_constant<kTileRows>(height, [&](auto tile_rows) {
          constexpr int M = decltype(tile_rows)::value;
          const auto start = [&](int i, int j) {
            return BiasOfRows ? broadcast(bias[row + i]) : load(bias + column + j * kLanes<T>);
          };
          multiply<M, N>(a, row, b, column, taps, start, tile, tile_stride);
        });
        if (!direct) {
          for (int i = 0; i < height; ++i) convert(buffer + i * kWide, out + (row + i) * stride + column, width);
        }
      }
    });
  }
}

template <class Element>
void forward(const ConvForward& p, int64_t first, int64_t last) {
  using T = Compute<Element>;
  const int64_t taps = p.images.taps(), rows = p.images.rows(), cols = p.images.cols();
  const T* bias = static_cast<const T*>(p.bias);
  Scratch<const T*> weight(taps), tap(taps);
  for (int64_t k = 0; k < taps; ++k) weight.get()[k] = static_cast<const T*>(p.weight) + k * padded(p.outputs);

  RowWalk<T> walk(p.images);
  for (int64_t unit = first; unit < last; ++unit) {
    walk.taps(unit, tap.get());
    Element* out = static_cast<Element*>(p.out);
    if (p.channels_last) {
      out += unit * cols * p.outputs;
      multiply_row<Element, false>(tap.get(), cols, weight.get(), p.outputs, taps, bias, out, p.outputs);
    } else {
      const int64_t n = unit / rows, oy = unit % rows;
      out += (n * p.outputs * rows + oy) * cols;
      multiply_row<Element, true>(weight.get(), p.outputs, tap.get(), cols, taps, bias, out, rows * cols);
    }
  }
}

}  // namespace

void conv_forward(const ConvForward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { forward<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
