// Fused residual + convolution, backward: sum over all positions of grad[n, o, oy, ox] * tap_k[oy][ox],
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
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

// Adds up blocks of output rows.
template <class Element>
class BlockSum {
  using T = Compute<Element>;
  static constexpr int64_t kRows = RowBlock<T>::kRows;

 public:
  explicit BlockSum(const ConvBackward& p)
      : p_(p),
        block_(p),
        columns_(block_.columns()),
        wanted_(p.taps() + p.bias),
        grads_(kRows * kGroup),
        gathered_(gathered_size()),
        block_sum_(wanted_ * padded(p.outputs)) {
    std::memset(gathered_.get(), 0, gathered_size() * sizeof(T));
  }

  // Adds the sums of output rows first .. last - 1, at most kRows of them, to sum[outputs][columns].
  void add(int64_t first, int64_t last, double* sum) {
    block_.load(first, last);
    if (neighbouring_channels()) {
      add_columns(first, last, sum);
    } else {
      add_lanes(first, last, sum);
    }
  }

 private:
  static constexpr int kGroup = kLaneRows;  // channels of a register tile with vectors along the row

  const ConvBackward& p_;
  RowBlock<T> block_;
  int64_t columns_;          // taps, and one for the bias
  int64_t wanted_;           // those to compute
  Scratch<const T*> grads_;  // [row][kGroup]
  Scratch<T> gathered_;      // gradients, converted or made contiguous
  Scratch<T> block_sum_;     // [columns_][padded outputs]

  int64_t cols() const { return p_.images.cols(); }
  int64_t row_size() const { return (cols() + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }
  bool neighbouring_channels() const { return p_.stride_o == 1 && p_.stride_w != 1; }
  int64_t gathered_size() const {
    return neighbouring_channels() ? cols() * padded(p_.outputs) : kRows * kGroup * row_size();
  }

  const Element* grad(int64_t unit, int64_t o) const {
    const int64_t n = unit / p_.images.rows(), oy = unit % p_.images.rows();
    return static_cast<const Element*>(p_.grad) + n * p_.stride_n + o * p_.stride_o + oy * p_.stride_h;
  }

  void add_columns(int64_t first, int64_t last, double* sum) {
    const int64_t stride = padded(p_.outputs);
    std::memset(block_sum_.get(), 0, wanted_ * stride * sizeof(T));
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
      for (int64_t k = 0; k < wanted_; k += kTileRows) {
        const int rows = int(wanted_ - k < kTileRows ? wanted_ - k : kTileRows);
        with_constant<kTileRows>(rows, [&](auto tile_rows) {
          constexpr int64_t kWide = kTileVectors * kLanes<T>;
          for (int64_t o = 0; o < p_.outputs; o += kWide) {
            const int64_t width = p_.outputs - o < kWide ? p_.outputs - o : kWide;
            with_constant<kTileVectors>(int((width + kLanes<T> - 1) / kLanes<T>), [&](auto vectors) {
              accumulate_columns<decltype(tile_rows)::value, decltype(vectors)::value>(
                  block_.taps(unit - first) + k, b + o, b_stride, cols(), block_sum_.get() + k * stride + o, stride);
            });
          }
        });
      }
    }
    for (int64_t o = 0; o < p_.outputs; ++o) {
      for (int64_t k = 0; k < wanted_; ++k) sum[o * columns_ + k] += block_sum_.get()[k * stride + o];
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
        for (int64_t k = 0; k < wanted_; k += kTileTaps) {
          const int taps = int(wanted_ - k < kTileTaps ? wanted_ - k : kTileTaps);
          with_constant<kTileTaps>(taps, [&](auto tile_taps) {
            constexpr int M = decltype(group)::value, N = decltype(tile_taps)::value;
            Vec<T> tile[M][N] = {};
            for (int64_t unit = first; unit < last; ++unit) {
              accumulate_lanes<M, N>(grads_.get() + (unit - first) * kGroup, block_.taps(unit - first) + k,
                                     row_size() / kLanes<T>, tile);
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
  const int64_t total = p.images.batch * p.images.rows(), size = p.outputs * (p.taps() + 1);
  constexpr int64_t kRows = RowBlock<Compute<Element>>::kRows;
  BlockSum<Element> block(p);
  for (int64_t unit = first; unit < last; ++unit) {
    double* sum = p.partial + unit * size;
    std::memset(sum, 0, size * sizeof(double));
    const int64_t end = min(total, (unit + 1) * p.unit_rows());
    for (int64_t row = unit * p.unit_rows(); row < end; row += kRows) block.add(row, min(row + kRows, end), sum);
  }
}

}  // namespace

void conv_backward(const ConvBackward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { backward<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
