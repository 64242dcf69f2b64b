// Fused NPR + convolution, backward: sum over all positions of grad[n, o, oy, ox] * tap_k[oy][ox],
// and of grad itself for the bias.
//
// A matrix product [O][positions] x [positions][K] whose reduction is long, so it is cut into units of
// output rows, each with a partial sum of its own that the caller adds in the order of the units.
// Within a unit, blocks of 16 rows are summed in the compute type and added up in double.
//
// Gradients with neighbouring channels (channels_last) are vectors over o, multiplied with broadcast
// taps. Otherwise vectors run along the row of positions, for gradient and taps alike, and are added
// up across their lanes at the end of a block. The bias is one more tap, whose difference is always 1.
//
// Cost per gradient element: K multiply-adds; it is read once, the taps from cache.
#include "cpu/differences.h"

namespace npr::cpu::NPR_ISA {
namespace {

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

// A block of up to kBlockRows output rows: their gradients and, through pointers, their taps.
template <class Element>
class Block {
  using T = Compute<Element>;
  static constexpr int64_t kRows = ConvBackward::kBlockRows;

 public:
  explicit Block(const ConvBackward& p)
      : p_(p),
        columns_(p.images.taps() + 1),
        cells_(CellRow<T>::size(p.images)),
        memory_((kRows + 2) * cells_),
        ones_(CellRow<T>::plane_size(p.images)),
        taps_(kRows * columns_),
        grads_(kRows * kGroup),
        gathered_(neighbouring_channels() ? cols() * padded(p.outputs) : kRows * kGroup * row_size()),
        block_sum_(columns_ * padded(p.outputs)) {
    for (int64_t i = 0; i < kRows + 2; ++i) row(i).clear(p.images);
    for (int64_t i = 0; i < CellRow<T>::plane_size(p.images); ++i) ones_.get()[i] = T(i < cols());
    std::memset(gathered_.get(), 0, gathered_size() * sizeof(T));
  }

  // Adds the sums of output rows first .. last - 1, at most kRows of them.
  void add(int64_t first, int64_t last, double* sum) {
    load_taps(first, last);
    if (neighbouring_channels()) {
      add_columns(first, last, sum);
    } else {
      add_lanes(first, last, sum);
    }
  }

 private:
  static constexpr int kGroup = 4;                            // channels in a register tile of vectors along the row
  static constexpr int kTapTile = kTileVectors == 4 ? 6 : 2;  // and taps

  const ConvBackward& p_;
  int64_t columns_;  // taps, and one for the bias
  int64_t cells_;
  Scratch<T> memory_, ones_;
  Scratch<const T*> taps_;   // [row][columns_]
  Scratch<const T*> grads_;  // [row][kGroup]
  Scratch<T> gathered_;      // gradients, converted or made contiguous
  Scratch<T> block_sum_;     // [columns_][padded outputs]

  int64_t cols() const { return p_.images.cols(); }
  int64_t row_size() const { return (cols() + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }
  bool neighbouring_channels() const { return p_.stride_o == 1 && p_.stride_w != 1; }
  int64_t gathered_size() const {
    return neighbouring_channels() ? cols() * padded(p_.outputs) : kRows * kGroup * row_size();
  }
  CellRow<T> row(int64_t slot) const { return {memory_.get() + slot * cells_, p_.images}; }

  const Element* grad(int64_t unit, int64_t o) const {
    const int64_t n = unit / p_.images.rows(), oy = unit % p_.images.rows();
    return static_cast<const Element*>(p_.grad) + n * p_.stride_n + o * p_.stride_o + oy * p_.stride_h;
  }

  // Slot 0 holds zeros, slot 1 the row of cells above the block, slot 2 + i the block's row i.
  void load_taps(int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t n = unit / p_.images.rows(), oy = unit % p_.images.rows(), i = unit - first;
      if (i == 0 && oy > 0) load_cells(p_.images, n, oy - 1, row(1));
      load_cells(p_.images, n, oy, row(2 + i));
      const T** taps = taps_.get() + i * columns_;
      tap_pointers(p_.images, row(oy > 0 ? 1 + i : 0), row(2 + i), taps);
      taps[columns_ - 1] = ones_.get();
    }
  }

  void add_columns(int64_t first, int64_t last, double* sum) {
    const int64_t stride = padded(p_.outputs);
    std::memset(block_sum_.get(), 0, columns_ * stride * sizeof(T));
    for (int64_t unit = first; unit < last; ++unit) {
      const Element* source = grad(unit, 0);
      const T* b = gathered_.get();
      int64_t b_stride = stride;
      if (std::is_same_v<Element, T> && p_.outputs % kLanes<T> == 0) {
        b = reinterpret_cast<const T*>(source);
        b_stride = p_.stride_w;
      } else {
        for (int64_t x = 0; x < cols(); ++x) {
          convert(source + x * p_.stride_w, gathered_.get() + x * stride, p_.outputs);
        }
      }
      for (int64_t k = 0; k < columns_; k += kTileRows) {
        const int rows = int(columns_ - k < kTileRows ? columns_ - k : kTileRows);
        with_constant<kTileRows>(rows, [&](auto tile_rows) {
          constexpr int64_t kWide = kTileVectors * kLanes<T>;
          for (int64_t o = 0; o < p_.outputs; o += kWide) {
            const int64_t width = p_.outputs - o < kWide ? p_.outputs - o : kWide;
            with_constant<kTileVectors>(int((width + kLanes<T> - 1) / kLanes<T>), [&](auto vectors) {
              accumulate_columns<decltype(tile_rows)::value, decltype(vectors)::value>(
                  taps_.get() + (unit - first) * columns_ + k, b + o, b_stride, cols(),
                  block_sum_.get() + k * stride + o, stride);
            });
          }
        });
      }
    }
    for (int64_t o = 0; o < p_.outputs; ++o) {
      for (int64_t k = 0; k < columns_; ++k) sum[o * columns_ + k] += block_sum_.get()[k * stride + o];
    }
  }

  // Gradients of kGroup channels from o on, as contiguous rows of whole vectors with zeros at the end.
  void gather(int64_t first, int64_t last, int64_t o, int channels) {
    const bool direct = std::is_same_v<Element, T> && p_.stride_w == 1 && cols() % kLanes<T> == 0;
    for (int64_t unit = first; unit < last; ++unit) {
      for (int i = 0; i < channels; ++i) {
        const int64_t slot = (unit - first) * kGroup + i;
        const Element* source = grad(unit, o + i);
        if (direct) {
          grads_.get()[slot] = reinterpret_cast<const T*>(source);
          continue;
        }
        T* to = gathered_.get() + slot * row_size();
        if (p_.stride_w == 1) {
          convert(source, to, cols());
        } else {
          for (int64_t x = 0; x < cols(); ++x) convert(source + x * p_.stride_w, to + x, 1);
        }
        grads_.get()[slot] = to;
      }
    }
  }

  void add_lanes(int64_t first, int64_t last, double* sum) {
    for (int64_t o = 0; o < p_.outputs; o += kGroup) {
      const int channels = int(p_.outputs - o < kGroup ? p_.outputs - o : kGroup);
      gather(first, last, o, channels);
      with_constant<kGroup>(channels, [&](auto group) {
        for (int64_t k = 0; k < columns_; k += kTapTile) {
          const int taps = int(columns_ - k < kTapTile ? columns_ - k : kTapTile);
          with_constant<kTapTile>(taps, [&](auto tile_taps) {
            constexpr int M = decltype(group)::value, N = decltype(tile_taps)::value;
            Vec<T> tile[M][N] = {};
            for (int64_t unit = first; unit < last; ++unit) {
              accumulate_lanes<M, N>(grads_.get() + (unit - first) * kGroup,
                                     taps_.get() + (unit - first) * columns_ + k, row_size() / kLanes<T>, tile);
            }
            for (int i = 0; i < M; ++i) {
              for (int j = 0; j < N; ++j) sum[(o + i) * columns_ + k + j] += sum_lanes<T>(tile[i][j]);
            }
          });
        }
      });
    }
  }
};

template <class Element>
void backward(const ConvBackward& p, int64_t first, int64_t last) {
  const int64_t total = p.images.batch * p.images.rows(), size = p.outputs * (p.images.taps() + 1);
  Block<Element> block(p);
  for (int64_t unit = first; unit < last; ++unit) {
    double* sum = p.partial + unit * size;
    std::memset(sum, 0, size * sizeof(double));
    const int64_t begin = unit * p.unit_rows(), end = begin + p.unit_rows() < total ? begin + p.unit_rows() : total;
    for (int64_t row = begin; row < end; row += ConvBackward::kBlockRows) {
      block.add(row, row + ConvBackward::kBlockRows < end ? row + ConvBackward::kBlockRows : end, sum);
    }
  }
}

}  // namespace

void conv_backward(const ConvBackward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { backward<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
